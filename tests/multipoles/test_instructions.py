"""Loops on other processors than this one: their machine code, and AVX2 in a run of its own."""

import os
import re
import subprocess
import sys
from types import SimpleNamespace

import llvmlite.binding as llvm
import numpy as np
import pytest
from llvmlite import ir
from numba.core import cgutils

from multipoles import reference
from multipoles.compiled import instructions
from multipoles.compiled.emit import Written
from multipoles.compiled.lanes import FLAGS, constant, inverse_root
from multipoles.emitted import traceless
from multipoles.emitted.tiling import tiling

AVX2 = "+sse4.2,+avx,+avx2,+fma"
AVX512 = f"{AVX2},+avx512f"
MACHINES = {
    "neoverse": ("aarch64-unknown-linux-gnu", "neoverse-n1", "+neon"),
    "apple": ("arm64-apple-darwin22.0.0", "apple-m1", "+neon"),
    "avx512": ("x86_64-unknown-linux-gnu", "skylake-avx512", AVX512),
    "avx2": ("x86_64-unknown-linux-gnu", "haswell", AVX2),
    "windows": ("x86_64-pc-windows-msvc", "haswell", AVX2),
    "sse": ("x86_64-unknown-linux-gnu", "x86-64", ""),
    "other": ("riscv64-unknown-linux-gnu", "generic-rv64", ""),
}


def context_of(machine):
    """Return what of Numba's context tells the processor."""
    return SimpleNamespace(codegen=lambda: SimpleNamespace(magic_tuple=lambda: MACHINES[machine]))


def pair_loop(machine, real):
    """Return LLVM's text of a loop over sources: potential and gradient of charges at a target."""
    context = context_of(machine)
    itemsize = 4 if real == ir.FloatType() else 8
    vector = ir.VectorType(real, tiling(context, itemsize, (0, 1), True, False).lanes)
    module = ir.Module()
    module.triple = MACHINES[machine][0]
    kind = ir.FunctionType(ir.VoidType(), [vector.as_pointer()] * 3 + [ir.IntType(64)])
    function = ir.Function(module, kind, "pairs")
    target, sources, out, n = function.args
    builder = ir.IRBuilder(function.append_basic_block())

    def read(pointer, index):
        place = builder.gep(pointer, [index])
        return Written(builder, [builder.load(place, typ=vector)], FLAGS)

    def word(number):
        return ir.Constant(ir.IntType(64), number)

    zero = constant(vector, 0.0)
    sums = [cgutils.alloca_once_value(builder, zero) for _ in range(4)]
    point = [read(target, word(axis)) for axis in range(3)]
    with cgutils.for_range_slice(builder, word(0), n, word(4)) as (j, _):
        place = [builder.add(j, word(k)) for k in range(4)]
        r = [x - read(sources, at) for x, at in zip(point, place, strict=False)]
        square = (r[0] * r[0] + r[1] * r[1] + r[2] * r[2]).values[0]
        inverse = Written(builder, [inverse_root(context, builder, square)], FLAGS)
        shared = traceless.geometry(0, 1, tuple(r), inverse, False)
        before = [Written(builder, [builder.load(place)], FLAGS) for place in sums]
        after = traceless.add_field(0, 1, shared, [read(sources, place[3])], before)
        for number, variable in zip(after, sums, strict=True):
            builder.store(number.values[0], variable)
    for k, variable in enumerate(sums):
        builder.store(builder.load(variable), builder.gep(out, [word(k)]))
    builder.ret_void()
    return str(module)


def machine_code(machine, real):
    """Return the assembly of the innermost loop."""
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    triple, name, features = MACHINES[machine]
    try:
        target = llvm.Target.from_triple(triple)
    except RuntimeError as error:
        pytest.skip(f"llvmlite has no target for {triple}: {error}")
    processor = target.create_target_machine(cpu=name, features=features, opt=3)
    module = llvm.parse_assembly(pair_loop(machine, real))
    options = llvm.create_pipeline_tuning_options(speed_level=3)
    passes = llvm.create_pass_builder(processor, options)
    passes.getModulePassManager().run(module, passes)
    lines = processor.emit_assembly(module).splitlines()
    start = 0
    for i, line in enumerate(lines):
        label = re.match(r"(\.?L\w+):", line)
        if label:
            start = i
        elif re.match(rf"\s+(j|b|cbn).*{re.escape(lines[start].split(':')[0])}\b", line):
            return "\n".join(lines[start : i + 1])
    raise AssertionError("no loop")


@pytest.mark.parametrize("real", [ir.DoubleType(), ir.FloatType()], ids=["float64", "float32"])
@pytest.mark.parametrize("machine", [name for name in MACHINES if name != "other"])
def test_pairs_take_estimates(machine, real):
    code = machine_code(machine, real)
    single = real == ir.FloatType()
    wanted, width = {
        "neoverse": ("frsqrte", r"v[0-9]+\.[24][sd]"), "apple": ("frsqrte", r"\.[24][sd]"),
        "avx512": ("vrsqrt14p", "%zmm"), "avx2": ("vrsqrtps", "%ymm"),
        "windows": ("vrsqrtps", "%ymm"), "sse": ("rsqrtps" if single else "sqrtpd", "%xmm"),
    }[machine]  # fmt: skip
    assert wanted in code and re.search(width, code)
    # float64 is divided sooner than improved where products and sums are not fused
    exact = machine == "sse" and not single
    assert bool(re.search(r"div[ps]|fdiv|(?<!r)sqrtp|fsqrt", code)) == exact
    assert bool(re.search("fmla|vfmadd", code)) == (machine != "sse")


def test_other_processors_divide_by_the_root():
    text = pair_loop("other", ir.DoubleType())
    assert "llvm.sqrt" in text and "fdiv" in text and "llvm.x86" not in text


@pytest.mark.parametrize(
    ("machine", "size", "count"),
    [
        ("neoverse", 16, 32),
        ("apple", 16, 32),
        ("avx512", 64, 32),
        ("avx2", 32, 16),
        ("sse", 16, 16),
    ],
)
def test_registers(machine, size, count):
    context = context_of(machine)
    assert instructions.registers(context) == (size, count)
    assert instructions.has_fma(context) == (machine != "sse")
    for itemsize in (4, 8):
        for orders in ((0, 0), (0, 1), (1, 2), (3, 4)):
            tiles = tiling(context, itemsize, orders, True, False)
            sums = len(traceless.sum_names(orders[1])) * tiles.targets * tiles.lanes
            assert sums * itemsize <= size * count // 2 or tiles.lanes * itemsize == size


SCRIPT = """
import sys
import numba, numpy as np, multipoles as mp
from multipoles.compiled.simd import BYTES, load, rsqrt, store
from multipoles.compiled.instructions import instruction_set
from multipoles.emitted import field
from multipoles.neighbours import Slots


@numba.njit
def write_roots(a, out):
    for i in range(0, a.shape[0], BYTES // a.itemsize):
        store(out, i, rsqrt(load(a, i)))


rng = np.random.default_rng(0)
x, q = rng.standard_normal((300, 3)), rng.standard_normal((300, 1, 1))
out = np.zeros((300, 1, 4))
field.field_of_tiles(x, x, q, 1, Slots(300, 300).tiles(128), out)
single = (a.astype(np.float32) for a in (x, x, q[:, 0]))
np.savez(sys.argv[1], out[:, 0], mp.field(*single, 1))
for dtype in (np.float64, np.float32):
    limits = np.finfo(dtype)
    a = np.geomspace(limits.tiny, limits.max / 4, 4096).astype(dtype)
    a[:64] = 0.0
    roots = np.empty_like(a)
    write_roots(a, roots)
    exact = 1 / np.sqrt(a[64:].astype(np.longdouble))
    assert not roots[:64].any() and np.abs(roots[64:] / exact - 1).max() < 4 * limits.eps
loop = field._loop_of_tiles(0, 1, True, 8, 0, False)
code = "".join(loop.inspect_asm().values())
print(instruction_set(), "vrsqrtps" in code, "%ymm" in code, "%zmm" in code, "vsqrtpd" in code)
"""


def features_without_avx512():
    features = llvm.get_host_cpu_features()
    if not (features.get("avx2") and features.get("fma")):
        pytest.skip("needs a processor with AVX2")
    return ",".join(f"+{name}" for name, has in features.items() if has and "avx512" not in name)


def test_avx2_is_right_and_quick_code(tmp_path):
    environment = {
        **os.environ, "NUMBA_NUM_THREADS": "1", "NUMBA_CACHE_DIR": str(tmp_path),
        "NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": features_without_avx512(),
    }  # fmt: skip
    path = tmp_path / "found.npz"
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(path)],
        env=environment, capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["avx2", "True", "True", "False", "False"]
    rng, found = np.random.default_rng(0), np.load(path).values()
    x, q = rng.standard_normal((300, 3)), rng.standard_normal((300, 1))
    for phi, dtype in zip(found, (np.float64, np.float32), strict=True):
        x, q = x.astype(dtype).astype(np.float64), q.astype(dtype).astype(np.float64)
        exact = reference.field(x, x, q, 1)
        error = np.linalg.norm(phi - exact) / np.linalg.norm(exact)
        assert error < 4 * np.finfo(dtype).eps
