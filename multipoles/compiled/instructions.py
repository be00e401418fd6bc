"""What the processor offers to loops that are being compiled: its registers, and its estimates."""

from typing import Any, NamedTuple

from numba.core.registry import cpu_target


class Registers(NamedTuple):
    """The registers for vectors."""

    size: int
    """Bytes of one."""
    number: int
    """How many there are."""


def features(context: Any) -> tuple[str, frozenset[str]]:
    """Return the architecture (``x86_64``, ``aarch64`` ...) and what its processor has."""
    triple, _, listed = context.codegen().magic_tuple()[:3]
    architecture = triple.split("-")[0]
    names = frozenset(name[1:] for name in listed.split(",") if name.startswith("+"))
    return "aarch64" if architecture == "arm64" else architecture, names


def registers(context: Any) -> Registers:
    """Return the registers of the processor that is compiled for."""
    architecture, names = features(context)
    if architecture == "aarch64":
        return Registers(16, 32)
    if "avx512f" in names:
        return Registers(64, 32)
    return Registers(32 if "avx" in names else 16, 16)


def has_avx512(context: Any) -> bool:
    """Return whether there are registers of 64 bytes, and estimates of 14 bits for them."""
    return "avx512f" in features(context)[1]


def has_fma(context: Any) -> bool:
    """Return whether a product and a sum are one instruction, rounded once."""
    architecture, names = features(context)
    return architecture == "aarch64" or "fma" in names


def instruction_set() -> str:
    """Return the name of the instructions that loops are compiled for."""
    context = cpu_target.target_context
    architecture, names = features(context)
    if architecture == "aarch64":
        return "neon"
    wide = next((name for name in ("avx512f", "avx2", "avx") if name in names), None)
    return wide or architecture
