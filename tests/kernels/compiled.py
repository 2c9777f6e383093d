"""What the compiler makes of a kernel for a GPU that need not be there: registers and spills.

A process of its own, because a kernel that was defined for the interpreter cannot be compiled; one
for all kernels, because it imports torch and Triton.
"""

import functools
import json
import os
import subprocess
import sys
from pathlib import Path

_SCRIPT = """
import json, re, subprocess, sys, tempfile, traceback
from pathlib import Path
import triton
import triton.backends.nvidia
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from markovscore.kernels import triton_source

TOOL = Path(triton.backends.nvidia.__file__).parent / "bin" / "cuobjdump"
USAGE = re.compile(r"(REG|STACK|SHARED|LOCAL):(\\d+)")

def resources(module, kernel, signature, constants, warps, arch, aligned):
    function = getattr(triton_source(module), kernel)
    signature |= {name: "constexpr" for name in constants}
    pointers = [n for n, kind in signature.items() if aligned and kind.startswith("*")]
    attributes = {(function.arg_names.index(n),): [["tt.divisibility", 16]] for n in pointers}
    source = ASTSource(fn=function, signature=signature, constexprs=constants, attrs=attributes)
    made = triton.compile(source, target=GPUTarget("cuda", arch, 32), options={"num_warps": warps})
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder, "kernel.cubin")
        cubin.write_bytes(made.asm["cubin"])
        command = [TOOL, "-res-usage", cubin]
        usage = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return {k.lower(): int(v) for k, v in USAGE.findall(usage)} | {"ptx": made.asm["ptx"]}

for line in sys.stdin:
    try:
        answer = resources(*json.loads(line))
    except Exception:
        answer = {"error": traceback.format_exc()}
    print(json.dumps(answer), flush=True)
"""


@functools.cache
def _compiler() -> subprocess.Popen:
    """It ends with this process, whose end of the pipe closes."""
    root = Path(__file__).resolve().parent.parent.parent
    forced = ("TRITON_INTERPRET", "MARKOVSCORE_KERNELS")
    kept = {k: v for k, v in os.environ.items() if k not in forced}
    return subprocess.Popen(
        [sys.executable, "-c", _SCRIPT],
        env=kept | {"PYTHONPATH": str(root / "src")},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


def resources(
    module: str, kernel: str, signature: dict, constants: dict, warps: int = 4, arch: int = 90,
    aligned: bool = False,
) -> dict:  # fmt: skip
    """``reg``, ``stack`` (bytes a thread, where spills go), ``shared``, ``local`` and the ``ptx``.

    ``signature`` maps runtime arguments to Triton's types (``"*fp32"``, ``"i32"``), ``constants``
    the ``constexpr`` ones to values; ``aligned``: all pointers are multiples of 16 bytes, as those
    of tensors that torch has allocated are.
    """
    compiler = _compiler()
    request = [module, kernel, signature, constants, warps, arch, aligned]
    print(json.dumps(request), file=compiler.stdin, flush=True)
    answer = json.loads(compiler.stdout.readline())
    assert "error" not in answer, answer["error"]
    return answer
