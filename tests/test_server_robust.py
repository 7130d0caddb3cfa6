"""The server against clients that are slow, many, gone or wrongly addressed, and around its end."""

from __future__ import annotations

import json
import resource
import select
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import requests

pytest.importorskip("starlette", reason="needs the extra 'server'")

PATH = "/api/v3/tiny/encode/"
BODY = {"items": [{"sequence": "MKT"}]}
HEAD = f"POST {PATH} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


@pytest.fixture(scope="module")
def server(start_server: Any) -> Iterator[Any]:
    with start_server("--head-timeout", "2") as server:
        yield server


def connect(server: Any, stack: ExitStack, text: str = "") -> socket.socket:
    connection = stack.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=60))
    connection.sendall(text.encode())
    return connection


def is_closed(connection: socket.socket) -> bool:
    """Waits for the other side to close."""
    try:
        while connection.recv(4096):
            pass
    except ConnectionResetError:
        pass
    return True


def wait_until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def count(server: Any, metric: str) -> float:
    lines = requests.get(f"{server.url}/metrics", timeout=60).text.splitlines()
    return float(next(line for line in lines if line.startswith(f"{metric} ")).split()[1])


# ------------------------------------------------------------------------------------------------------ connections


@pytest.mark.parametrize("begun", ["", "GET", f"{HEAD}X-Slow: "])
def test_a_head_that_does_not_arrive_ends_its_connection(server: Any, begun: str) -> None:
    with ExitStack() as stack:
        assert is_closed(connect(server, stack, begun))


def test_a_second_head_has_a_deadline_too(server: Any) -> None:
    with ExitStack() as stack:
        connection = connect(server, stack, "GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b"200 OK" in connection.recv(4096)
        connection.sendall(b"GET /li")
        assert is_closed(connection)


def test_an_answered_request_does_not_hold_its_connection_with_an_endless_body(server: Any) -> None:
    with ExitStack() as stack:
        connection = connect(server, stack, f"{HEAD.replace('tiny', 'other')}Content-Length: 1000\r\n\r\n")
        assert b"404" in connection.recv(4096)
        connection.sendall(b" ")
        assert is_closed(connection)


def test_a_connection_between_requests_is_left_alone(server: Any) -> None:
    with requests.Session() as session:
        for _ in range(2):
            assert session.post(server.url + PATH, json=BODY, timeout=60).status_code == 200
            time.sleep(2.5)  # longer than a head may take


def ask_for_much(server: Any, stack: ExitStack) -> socket.socket:
    """A client that has asked for 11 MB, more than the system holds on their way, and has a small window for them."""
    items = [{"sequence": "ACDEFGHIKL" * 100}] * 8
    body = json.dumps({"items": items, "params": {"include": ["per_residue"], "repr_layers": [0, 1, 2]}})
    client = stack.enter_context(socket.socket())
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 18)
    client.settimeout(60)
    client.connect(("127.0.0.1", server.port))
    client.sendall(f"{HEAD}Content-Length: {len(body)}\r\n\r\n{body}".encode())
    return client


def test_an_answer_that_nobody_reads_is_not_held_for_ever(start_server: Any) -> None:
    with start_server("--write-timeout", "2") as server, ExitStack() as stack:
        poll = select.poll()
        poll.register(ask_for_much(server, stack), select.POLLHUP | select.POLLERR)
        assert poll.poll(60_000)  # the server has closed: it was not read from here


def test_an_answer_that_is_read_slowly_arrives(start_server: Any) -> None:
    with start_server("--write-timeout", "2") as server, ExitStack() as stack:
        reader = stack.enter_context(ask_for_much(server, stack).makefile("rb"))
        length = 0
        while (line := reader.readline()) != b"\r\n":
            name, _, value = line.partition(b": ")
            length = int(value) if name.lower() == b"content-length" else length
        assert length > 10_000_000
        for _ in range(6):  # longer than it may read nothing
            length -= len(reader.read(500_000))
            time.sleep(0.4)
        assert len(reader.read(length)) == length


def with_few_descriptors() -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))


def test_connections_that_send_nothing_keep_nobody_out(start_server: Any) -> None:
    """More of them than the process has descriptors."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, max(soft, 2048)), hard))
    with start_server(before=with_few_descriptors) as server, ExitStack() as stack:
        for _ in range(400):
            connect(server, stack, "POST /ap")
        for _ in range(3):
            assert requests.post(server.url + PATH, json=BODY, timeout=60).status_code == 200
        assert len(server.log.read_text()) < 100_000
        server.log_lines()  # every line is JSON


def test_asyncio_without_descriptors_fills_no_disk(start_server: Any) -> None:
    options = ("--max-connections", "5000", "--head-timeout", "4")  # more than there are descriptors
    with start_server(*options, before=with_few_descriptors) as server, ExitStack() as stack:
        for _ in range(400):
            connect(server, stack, "POST /ap")
        wait_until(lambda: "asyncio" in {line["logger"] for line in server.log_lines()})
        assert requests.post(server.url + PATH, json=BODY, timeout=60).status_code == 200
        lines = [line for line in server.log_lines() if line["logger"] == "asyncio"]
        assert 1 <= len(lines) < 50  # one for each connection that waits, each second, without a limit
        assert all("out of system resource" in line["message"] for line in lines)


def test_too_many_connections_cost_the_oldest_that_waits(start_server: Any) -> None:
    with start_server("--max-connections", "3") as server, ExitStack() as stack:
        oldest, second, third = (connect(server, stack, "GET") for _ in range(3))
        newest = connect(server, stack, "GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert b"200 OK" in newest.recv(4096)
        assert is_closed(oldest)
        for connection in (second, third):
            connection.sendall(b" /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert b"200 OK" in connection.recv(4096)


def test_requests_under_way_are_not_closed_for_newer_connections(start_server: Any) -> None:
    with start_server("--max-connections", "2", "--batch-wait", "1000") as server, ExitStack() as stack:
        body = json.dumps(BODY)
        asking = [connect(server, stack, f"{HEAD}Content-Length: {len(body)}\r\n\r\n{body}") for _ in range(2)]
        time.sleep(0.3)
        assert is_closed(connect(server, stack))
        assert all(b"200 OK" in connection.recv(4096) for connection in asking)


# --------------------------------------------------------------------------------------------------- clients that leave


def test_what_clients_that_left_had_asked_for_is_not_computed(start_server: Any) -> None:
    with start_server("--batch-wait", "1000") as server:
        body = json.dumps({"items": [{"sequence": s} for s in ("MKTAYIAK", "GGWC")]})
        with ExitStack() as stack:
            connect(server, stack, f"{HEAD}Content-Length: {len(body)}\r\n\r\n{body}")
            wait_until(lambda: count(server, "skesm_open_requests") == 1)
        wait_until(lambda: count(server, "skesm_dropped_total") == 2)
        assert count(server, "skesm_open_requests") == 0
        assert requests.post(server.url + PATH, json=BODY, timeout=60).status_code == 200
        assert count(server, "skesm_computed_total") == 1
        assert [line["status"] for line in server.log_lines() if line["message"] == "request"] == [499, 200]


# ------------------------------------------------------------------------------------------------------ names


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LOCALHOST:8000", 200),
        (socket.gethostname(), 200),
        ("127.0.0.1:1", 200),
        ("10.1.2.3", 200),  # an address cannot be made to point elsewhere
        ("[::1]:8000", 200),
        ("elsewhere.example", 403),
        ("localhost.elsewhere.example", 403),
        ("127.0.0.1.elsewhere.example", 403),
        ("", 403),
    ],
)
def test_hosts(server: Any, host: str, status: int) -> None:
    answer = requests.post(server.url + PATH, json=BODY, headers={"Host": host}, timeout=60)
    assert answer.status_code == status
    assert host not in answer.text or not host


def test_allowed_hosts(start_server: Any) -> None:
    for allowed, status in (("gpu.example", 403), ("*", 200)):
        with start_server("--allowed-host", "Lab.example", "--allowed-host", allowed) as server:
            for host, expected in (("lab.example:8000", 200), ("elsewhere.example", status), ("localhost", status)):
                answer = requests.get(f"{server.url}/livez", headers={"Host": host}, timeout=60)
                assert answer.status_code == expected


@pytest.mark.parametrize("given", ["3f2a-91", "a.b_c-1", "x" * 63 + "1"])
def test_a_request_id_is_taken(server: Any, given: str) -> None:
    answer = requests.post(server.url + PATH, json=BODY, headers={"X-Request-ID": given}, timeout=60)
    assert answer.headers["X-Request-ID"] == given
    wait_until(lambda: given in [line.get("request_id") for line in server.log_lines()])


@pytest.mark.parametrize("given", ["", "MKTAYIAKQRQISFVKSHFSRQ", "x" * 64 + "1", 'a1"}', "a 1"])
def test_a_request_id_that_is_none_is_replaced(server: Any, given: str) -> None:
    """Letters alone could be a sequence, and the name goes into the log."""
    for path in (PATH, "/nothing", "/livez"):
        answer = requests.post(server.url + path, json=BODY, headers={"X-Request-ID": given}, timeout=60)
        assert len(answer.headers["X-Request-ID"]) == 32
    assert "MKTAYIAKQRQISFVKSHFSRQ" not in server.log.read_text()


def test_each_request_has_an_id_of_its_own(server: Any) -> None:
    answers = [requests.get(f"{server.url}/livez", timeout=60) for _ in range(5)]
    assert len({answer.headers["X-Request-ID"] for answer in answers}) == 5


# ------------------------------------------------------------------------------------------------------ the end


def test_probes(server: Any) -> None:
    for path in ("/livez", "/readyz"):
        answer = requests.get(server.url + path, timeout=60)
        assert (answer.status_code, answer.json()) == (200, {"status": "ok"})


def test_a_draining_server_says_so_and_answers_what_it_took(start_server: Any) -> None:
    with start_server("--batch-wait", "1000") as server, ExitStack() as stack:
        body = json.dumps(BODY)
        taken = connect(server, stack, f"{HEAD}Content-Length: {len(body)}\r\n\r\n{body[:5]}")
        time.sleep(0.3)
        server.process.send_signal(signal.SIGTERM)
        wait_until(lambda: "draining" in [line["message"] for line in server.log_lines()])
        ready = requests.get(f"{server.url}/readyz", timeout=60)
        assert (ready.status_code, ready.json()) == (503, {"status": "draining"})
        assert requests.get(f"{server.url}/livez", timeout=60).status_code == 200
        refused = requests.post(server.url + PATH, json=BODY, timeout=60)
        assert refused.status_code == 503
        assert refused.headers["Retry-After"] == "1"
        assert "about to stop" in refused.json()["error"]
        taken.sendall(body[5:].encode())
        assert b"200 OK" in taken.recv(4096)
        assert server.process.wait(60) == 0


def test_a_second_signal_ends_it_at_once(start_server: Any) -> None:
    with start_server("--batch-wait", "1000", status=130) as server, ExitStack() as stack:
        connect(server, stack, f"{HEAD}Content-Length: 10\r\n\r\n")
        time.sleep(0.3)
        server.process.send_signal(signal.SIGINT)
        wait_until(lambda: "draining" in [line["message"] for line in server.log_lines()])
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(60) == 130


# ------------------------------------------------------------------------------------------------------ logins


def test_logins_survive_a_restart_and_hold_on_replicas(start_server: Any) -> None:
    environ = {"SKESM_SERVER_USERS": "ada:word bob:other", "SKESM_SERVER_KEY": "k" * 32}
    user = {"username": "ada", "password": "word"}

    def statuses(server: Any, login: dict[str, str]) -> tuple[int, int]:
        cookie = {"Cookie": f"access={login['access']};refresh={login['refresh']}"}
        asked = requests.post(server.url + PATH, json=BODY, headers=cookie, timeout=60)
        renewed = requests.post(f"{server.url}/api/auth/token/refresh/", headers=cookie, timeout=60)
        return asked.status_code, renewed.status_code

    with start_server(environ=environ) as first:
        login = requests.post(f"{first.url}/api/auth/token/", json=user, timeout=60).json()
        with start_server(environ=environ) as second:
            assert statuses(first, login) == statuses(second, login) == (200, 200)
    with start_server(environ={**environ, "SKESM_SERVER_KEY": "K" * 32}) as other:
        assert statuses(other, login) == (401, 401)
    with start_server(environ={**environ, "SKESM_SERVER_USERS": "ada:new-word bob:other"}) as changed:
        assert statuses(changed, login) == (401, 401)  # with the password, its logins end
