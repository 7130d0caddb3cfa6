"""The diagrams of the guide. `docs/figures.py` draws them."""

from __future__ import annotations

from collections.abc import Callable

from drawing import BLUE, GREEN, GREY, ORANGE, WIDTH, arrow, box, canvas, words


def layers() -> None:
    """From residues to one row: layers upwards, then pooling."""
    axes = canvas(9.6)
    words(axes, 3.3, 0.4, "each square: a vector of d numbers", small=True)
    for place, letter in enumerate("MKTAY"):
        box(axes, 0.4 + 1.2 * place, 0.9, 1, 0.8, letter, GREY)
        for layer in range(4):
            box(axes, 0.4 + 1.2 * place, 2.3 + 1.3 * layer, 1, 0.9, "", BLUE if layer == 3 else GREY)
    words(axes, 6.7, 1.3, "residues", at="left", small=True)
    for layer, name in enumerate(("layer 0", "layer 1", "…", "last layer (-1)")):
        words(axes, 6.7, 2.75 + 1.3 * layer, name, at="left", small=True)
    arrow(axes, (3.3, 7.3), (3.3, 8.2))
    words(axes, 3.6, 7.7, "pooling, such as the mean", at="left", small=True)
    box(axes, 0.4, 8.3, 5.8, 0.9, "one row of d columns")


def windows() -> None:
    """A long protein in windows that overlap, and the weight of each residue."""
    axes = canvas(6.5)
    box(axes, 0.3, 5, 8.9, 0.9, "a protein of 2,500 residues", GREY)
    spans = [(0.3, 3.7), (2.9, 3.7), (5.5, 3.7)]
    for number, (x, width) in enumerate(spans, start=1):
        box(axes, x, 3.4 if number % 2 else 2.9, width, 0.8, f"window {number}", BLUE if number % 2 else ORANGE)
        left, right = x, x + width
        rise = left if number == 1 else left + 1.1
        fall = right if number == len(spans) else right - 1.1
        height = [2 if number == 1 else 0.9, 2, 2, 2 if number == len(spans) else 0.9]
        axes.plot([left, rise, fall, right], height, color="#1f5fa8" if number % 2 else "#c4661f", lw=2)
    words(axes, 0.3, 0.35, "weight: falls linearly where two windows overlap", at="left", small=True)


def chains() -> None:
    """Two columns of sequences, embedded each on its own."""
    axes = canvas(7)
    for x, name, colour in ((0.4, "heavy", BLUE), (5.1, "light", ORANGE)):
        box(axes, x, 5.6, 4, 1.1, f"column “{name}”", colour)
        arrow(axes, (x + 2, 5.5), (x + 2, 4.7))
        box(axes, x, 3.5, 4, 1.1, "ESM2Embedder", GREY)
    arrow(axes, (2.4, 3.4), (3.6, 2.5))
    arrow(axes, (7.1, 3.4), (5.9, 2.5))
    box(axes, 2.35, 1.3, 2.4, 1.1, "192", BLUE)
    box(axes, 4.75, 1.3, 2.4, 1.1, "192", ORANGE)
    words(axes, 4.75, 0.6, "one row: 384 columns")


def once() -> None:
    """What happens to the rows of X when memory is set."""
    axes = canvas(9)
    box(axes, 2.25, 7.7, 5, 1, "150 rows of X", GREY)
    arrow(axes, (4.75, 7.6), (4.75, 6.9))
    box(axes, 2.25, 5.8, 5, 1, "150 different sequences", GREY)
    arrow(axes, (3.6, 5.7), (2.4, 4.7))
    arrow(axes, (5.9, 5.7), (7.1, 4.7))
    box(axes, 0.4, 3.2, 3.9, 1.4, "100 are stored", GREEN)
    box(axes, 5.2, 3.2, 3.9, 1.4, "50 go through\nthe model", ORANGE)
    arrow(axes, (5.1, 3.9), (4.4, 3.9))
    arrow(axes, (2.4, 3.1), (3.6, 1.9))
    arrow(axes, (7.1, 3.1), (5.9, 1.9))
    box(axes, 2.25, 0.8, 5, 1, "150 rows of features", BLUE)


def saving() -> None:
    """What the file of a saved pipeline holds, and what it names."""
    axes = canvas(7.6)
    box(axes, 0.4, 3.7, 8.7, 3.6, "", GREY)
    words(axes, WIDTH / 2, 6.8, "model.joblib, some kB")
    box(axes, 0.9, 5.3, 7.7, 1, "scaler and regressor: as fitted", GREEN)
    box(axes, 0.9, 4, 7.7, 1, "embedder: its parameters", BLUE)
    arrow(axes, (3, 3.9), (2.6, 2.3))
    arrow(axes, (6.5, 3.9), (6.9, 2.3))
    words(axes, WIDTH / 2, 2.9, "by name")
    box(axes, 0.4, 0.6, 4.2, 1.6, "weights of ESM-2\n(not in the file)", ORANGE)
    box(axes, 4.9, 0.6, 4.2, 1.6, "memory: the store\n(not in the file)", ORANGE)


def remote() -> None:
    """Where the parts run with a remote backend."""
    axes = canvas(8.2)
    box(axes, 0.4, 4, 8.7, 3.9, "", GREY)
    words(axes, WIDTH / 2, 7.4, "your machine")
    box(axes, 0.9, 5.9, 7.7, 1, "embedder, scaler, regressor", BLUE)
    box(axes, 0.9, 4.4, 7.7, 1, "memory: the record store", GREEN)
    arrow(axes, (3, 3.9), (3, 2.3))
    arrow(axes, (6.5, 2.3), (6.5, 3.9))
    words(axes, 2.8, 3.1, "new sequences", at="right", small=True)
    words(axes, 6.7, 3.1, "vectors", at="left", small=True)
    box(axes, 2.25, 0.6, 5, 1.6, "service with a GPU", ORANGE)


def variants() -> None:
    """The two halves of mutated pooling."""
    axes = canvas(8.6)
    for y, name, letters in ((7, "wild type", "MKTAYI"), (5.6, "variant", "MKVAYI")):
        words(axes, 0.3, y + 0.45, name, at="left", small=True)
        for place, letter in enumerate(letters):
            colour = GREY if place != 2 else (ORANGE if name == "wild type" else BLUE)
            box(axes, 2.5 + 1.13 * place, y, 0.95, 0.9, letter, colour)
    words(axes, 5.3, 8.3, "position 3 differs", small=True)
    arrow(axes, (4.9, 5.5), (2.7, 3.6))
    arrow(axes, (5.85, 5.5), (6.9, 3.6))
    words(axes, 0.4, 4.55, "new residue", at="left", small=True)
    words(axes, 6.9, 4.55, "wild type", at="left", small=True)
    box(axes, 0.4, 2.2, 4.3, 1.3, "vector of V\nmutated_l6_0 …", BLUE)
    box(axes, 4.7, 2.2, 4.4, 1.3, "vector of T\nreference_l6_0 …", ORANGE)
    words(axes, WIDTH / 2, 1.6, "one row: 2 d columns")
    words(
        axes,
        WIDTH / 2,
        0.7,
        "The mean over all residues would change\nby one part in six, or one in 237 for GFP.",
        small=True,
    )


def files() -> None:
    """Which function reads which input."""
    axes = canvas(9.8)
    rows = (
        (">P1 kinase\nMKTAYIAKQR", "read_fasta"),
        ("sequence,fitness\nMKTAYIAKQR,0.47", "read_table"),
        ("A23V:K40R", "apply_mutations"),
        ('frame["sequence"]', "nothing: a column\nis an input"),
    )
    words(axes, 2.3, 9.4, "you have", small=True)
    words(axes, 7.2, 9.4, "it is read by", small=True)
    for place, (sample, function) in enumerate(rows):
        y = 7.7 - 1.7 * place
        box(axes, 0.3, y, 4.3, 1.3, sample, GREY, code=True)
        arrow(axes, (4.7, y + 0.65), (5.3, y + 0.65))
        box(axes, 5.4, y, 3.8, 1.3, function, GREEN, code=function[:7] != "nothing", small=True)
    arrow(axes, (WIDTH / 2, 2.5), (WIDTH / 2, 1.7))
    box(axes, 0.3, 0.4, 8.9, 1.2, "ESM2Embedder: a row for each,\nin the order of the input")


def command_line() -> None:
    """The files around one run of ``skesm embed``."""
    axes = canvas(9.2)
    box(axes, 0.4, 7.8, 4.2, 1, "proteins.fasta", GREY, code=True)
    arrow(axes, (2.5, 7.7), (2.5, 6.8))
    box(axes, 0.4, 5.5, 4.2, 1.2, "skesm embed", BLUE)
    box(axes, 5.3, 6.6, 3.9, 1.3, "--memory FOLDER\n(if you give it)", GREEN, small=True)
    box(axes, 5.3, 4.4, 3.9, 1.6, "features.csv.parts\nfinished chunks;\ngone at the end", ORANGE, small=True)
    arrow(axes, (4.7, 6.3), (5.2, 6.9))
    arrow(axes, (4.7, 5.8), (5.2, 5.4))
    arrow(axes, (2.5, 5.4), (2.5, 4))
    box(axes, 0.4, 2.8, 8.8, 1.1, "features.csv: a row for each sequence", BLUE)
    box(axes, 0.4, 1.5, 8.8, 1.1, "features.csv.json: model, digests, versions", GREY, small=True)
    box(axes, 0.4, 0.2, 8.8, 1.1, "features.csv.missing.tsv: rows left out, and why", GREY, small=True)


def server() -> None:
    """Clients, the server, and what it shares."""
    axes = canvas(9)
    clients = ("ESM2Embedder", "BioLM's client", "OpenAI's client", "a notebook")
    for place, name in enumerate(clients):
        box(axes, 0.4 + 4.5 * (place % 2), 7.8 - 1.2 * (place // 2), 4.2, 1, name, GREY, small=True)
    arrow(axes, (3.4, 6.5), (3.4, 5.4))
    arrow(axes, (6.1, 5.4), (6.1, 6.5))
    words(axes, 3.2, 5.95, "sequences", at="right", small=True)
    words(axes, 6.3, 5.95, "vectors, logits …", at="left", small=True)
    box(axes, 0.4, 0.4, 8.7, 4.9, "", GREY)
    words(axes, WIDTH / 2, 4.8, "skesm serve")
    box(axes, 0.9, 3.2, 7.7, 1.1, "a batch: all that came within 5 ms", ORANGE, small=True)
    arrow(axes, (3.2, 3.1), (3.2, 2.2))
    arrow(axes, (6.3, 2.2), (6.3, 3.1))
    words(axes, 3, 2.65, "new", at="right", small=True)
    words(axes, 6.5, 2.65, "known", at="left", small=True)
    box(axes, 0.9, 0.8, 3.7, 1.3, "model\non the GPU", BLUE, small=True)
    box(axes, 4.9, 0.8, 3.7, 1.3, "--memory: the\nrecord store", GREEN, small=True)


def clusters() -> None:
    """The rows of one file, shared out to four jobs."""
    axes = canvas(8.8)
    words(axes, WIDTH / 2, 8.4, "proteins.fasta, in four parts of about equal residues", small=True)
    for place in range(4):
        x = 0.3 + 2.25 * place
        box(axes, x, 7, 2.15, 0.9, f"{place + 1}/4", GREY)
        arrow(axes, (x + 1.07, 6.9), (x + 1.07, 6.2))
        box(axes, x, 5, 2.15, 1.1, f"job {place + 1}", BLUE)
        box(axes, x, 4.2, 2.15, 0.8, "its store", GREEN, small=True)
        arrow(axes, (x + 1.07, 4.1), (x + 1.07, 3.4))
    box(axes, 0.3, 1.5, 8.9, 1.8, "", GREY)
    words(axes, WIDTH / 2, 2.85, "features/: one table for readers")
    words(axes, WIDTH / 2, 2.05, "four Parquet files and _manifest.json", small=True)
    words(axes, WIDTH / 2, 0.75, "Neither the parts nor the jobs change a number.", small=True)


def models() -> None:
    """Which engine ``LocalBackend()`` takes."""
    axes = canvas(9)
    box(axes, 0.4, 7.1, 5.6, 1.5, "torch and a GPU there,\nor bfloat16 asked for?", GREY, small=True)
    box(axes, 7, 7.1, 2.1, 1.5, "torch", BLUE)
    box(axes, 0.4, 4.4, 5.6, 1.5, "llvmlite installed?\n(the extra “fast”)", GREY, small=True)
    box(axes, 7, 4.4, 2.1, 1.5, "compiled", BLUE, small=True)
    box(axes, 0.4, 1.9, 5.6, 1.3, "NumPy engine", BLUE)
    for y in (7.85, 5.15):
        arrow(axes, (6.1, y), (6.9, y))
        words(axes, 6.5, y + 0.35, "yes", small=True)
    for y in (7, 4.3):
        arrow(axes, (3.2, y), (3.2, y - 1))
        words(axes, 3.4, y - 0.5, "no", at="left", small=True)
    words(
        axes,
        WIDTH / 2,
        0.8,
        "Their features agree within 1e-5 of the layer's scale,\nand share the records of a store.",
        small=True,
    )


def checkpoints() -> None:
    """How each kind of weights becomes a folder that skesm reads."""
    axes = canvas(10.6)
    rows = (
        ("a published name", "skesm models download"),
        ("your fine-tuned model", "save_pretrained"),
        ("a LoRA adapter", "merge_and_unload,\nthen save_pretrained"),
        (".bin, .pt, .ckpt", "skesm models convert"),
    )
    words(axes, 2.2, 10.2, "you have", small=True)
    words(axes, 7, 10.2, "you run", small=True)
    for place, (source, command) in enumerate(rows):
        y = 8.6 - 1.6 * place
        box(axes, 0.3, y, 3.9, 1.2, source, GREY, small=True)
        arrow(axes, (4.3, y + 0.6), (4.8, y + 0.6))
        box(axes, 4.9, y, 4.3, 1.2, command, ORANGE, small=True)
    arrow(axes, (WIDTH / 2, 3.7), (WIDTH / 2, 2.9))
    box(axes, 0.3, 0.6, 8.9, 2.2, "", BLUE)
    words(axes, WIDTH / 2, 2.2, "a folder: config.json and model.safetensors", small=True)
    words(axes, WIDTH / 2, 1.3, 'ESM2Embedder("path/to/folder")', code=True)


def cache() -> None:
    """What a stored record is found by."""
    axes = canvas(8.8)
    words(axes, WIDTH / 2, 8.4, "a record is found by", small=True)
    for place, name in enumerate(
        ("digest of the\nweights", "fp32\nor bf16", "digest of the\nsequence", "output:\nmean@6")
    ):
        box(axes, 0.3 + 2.25 * place, 6.6, 2.15, 1.4, name, BLUE, small=True)
    arrow(axes, (WIDTH / 2, 6.5), (WIDTH / 2, 5.7))
    box(axes, 1.3, 4.4, 6.9, 1.2, "values and their checksum", GREEN)
    words(axes, WIDTH / 2, 3.5, "and not by", small=True)
    for place, name in enumerate(
        ("the model's\nname", "batch size,\nother rows", "threads,\nprocesses", "device,\nengine")
    ):
        box(axes, 0.3 + 2.25 * place, 1.7, 2.15, 1.4, name, GREY, small=True)
    words(axes, WIDTH / 2, 0.8, "So another fold, grid or job finds it too.", small=True)


def several_gpus() -> None:
    """A proxy, a server for each GPU, and one store."""
    axes = canvas(8.4)
    box(axes, 2.25, 7.1, 5, 1, "clients", GREY)
    arrow(axes, (WIDTH / 2, 7), (WIDTH / 2, 6.3))
    box(axes, 0.3, 5.1, 8.9, 1.1, "nginx: TLS, and the server with least to do", ORANGE, small=True)
    for place in range(4):
        x = 0.3 + 2.25 * place
        arrow(axes, (x + 1.07, 5), (x + 1.07, 4.3))
        box(axes, x, 2.8, 2.15, 1.4, f"skesm serve\nGPU {place}", BLUE, small=True)
        arrow(axes, (x + 1.07, 2.7), (x + 1.07, 2))
    box(axes, 0.3, 0.6, 8.9, 1.3, "one --memory folder: each sequence is\ncomputed by one of them", GREEN, small=True)


DIAGRAMS: dict[str, Callable[[], None]] = {
    "layers": layers,
    "windows": windows,
    "chains": chains,
    "once": once,
    "saving": saving,
    "remote": remote,
    "variants": variants,
    "files": files,
    "command-line": command_line,
    "server": server,
    "clusters": clusters,
    "models": models,
    "checkpoints": checkpoints,
    "cache": cache,
    "several-gpus": several_gpus,
}
