"""LLVM's code to functions of this process.

The code is written as it should run: LLVM's optimisation passes make it no faster, and take as long as the rest.
"""

from __future__ import annotations

import threading
from typing import Any

import llvmlite.binding as llvm

#: Features of x86 processors with vectors of 512 bits.
_WIDE = ("avx512", "avx10", "amx")

_lock = threading.Lock()


def compile_text(text: str, *, wide: bool) -> Any:
    """Compile a module for this processor, in a fraction of a second.

    Parameters
    ----------
    text : str
        LLVM's assembly.
    wide : bool
        Whether to use vectors of 512 bits.

    Returns
    -------
    engine : llvmlite.binding.ExecutionEngine
        It holds the code: keep it as long as its functions may be called.
    """
    with _lock:  # llvmlite is not made for several threads at once
        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        features = llvm.get_host_cpu_features()
        for name in features:
            features[name] = features[name] and (wide or not name.startswith(_WIDE))
        chosen = features.flatten() + (",-prefer-256-bit" if wide else "")
        target = llvm.Target.from_default_triple()
        machine = target.create_target_machine(cpu=llvm.get_host_cpu_name(), features=chosen, opt=2)
        module = llvm.parse_assembly(text)
        engine = llvm.create_mcjit_compiler(module, machine)
        engine.finalize_object()
        return engine
