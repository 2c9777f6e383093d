"""What the compiler makes of a kernel for a GPU that need not be there: registers and spills.

A process of its own, because a kernel that was defined for the interpreter cannot be compiled.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

_SCRIPT = """
import json, re, subprocess, sys, tempfile
from pathlib import Path
import triton
import triton.backends.nvidia
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from markovscore.kernels import triton_source

module, kernel, signature, constants, warps, arch, aligned = json.loads(sys.stdin.read())
function = getattr(triton_source(module), kernel)
signature |= {name: "constexpr" for name in constants}
pointers = [n for n, kind in signature.items() if aligned and kind.startswith("*")]
attributes = {(function.arg_names.index(n),): [["tt.divisibility", 16]] for n in pointers}
source = ASTSource(fn=function, signature=signature, constexprs=constants, attrs=attributes)
made = triton.compile(source, target=GPUTarget("cuda", arch, 32), options={"num_warps": warps})
cubin = Path(tempfile.mkdtemp()) / "kernel.cubin"
cubin.write_bytes(made.asm["cubin"])
tool = Path(triton.backends.nvidia.__file__).parent / "bin" / "cuobjdump"
usage = subprocess.run([tool, "-res-usage", cubin], capture_output=True, text=True, check=True)
found = {k.lower(): int(v) for k, v in re.findall(r"(REG|STACK|SHARED|LOCAL):(\\d+)", usage.stdout)}
print(json.dumps(found | {"ptx": made.asm["ptx"]}))
"""


def resources(
    module: str, kernel: str, signature: dict, constants: dict, warps: int = 4, arch: int = 90,
    aligned: bool = False,
) -> dict:  # fmt: skip
    """``reg``, ``stack`` (bytes a thread, where spills go), ``shared``, ``local`` and the ``ptx``.

    ``signature`` maps runtime arguments to Triton's types (``"*fp32"``, ``"i32"``), ``constants``
    the ``constexpr`` ones to values; ``aligned``: all pointers are multiples of 16 bytes, as those
    of tensors that torch has allocated are.
    """
    root = Path(__file__).resolve().parent.parent.parent
    forced = ("TRITON_INTERPRET", "MARKOVSCORE_KERNELS")
    kept = {k: v for k, v in os.environ.items() if k not in forced}
    run = subprocess.run(
        [sys.executable, "-c", _SCRIPT],
        input=json.dumps([module, kernel, signature, constants, warps, arch, aligned]),
        env=kept | {"PYTHONPATH": str(root / "src")},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr[-4000:]
    return json.loads(run.stdout.splitlines()[-1])
