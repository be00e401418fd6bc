"""The line that explains a first call of seconds, and the command that does its work beforehand."""

from types import SimpleNamespace

import pytest

from fmm.__main__ import main
from multipoles.compiled import notice


def happening(module: str) -> SimpleNamespace:
    function = SimpleNamespace(__module__=module)
    return SimpleNamespace(data={"dispatcher": SimpleNamespace(py_func=function)})


@pytest.fixture
def clock(monkeypatch):
    now = SimpleNamespace(time=0.0)
    monkeypatch.setattr(notice.time, "perf_counter", lambda: now.time)
    return now


def compile_one(listener, clock, seconds, module, inner=0.0):
    event = happening(module)
    listener.on_start(event)
    if inner:
        compile_one(listener, clock, inner, module)
    clock.time += seconds - inner
    listener.on_end(event)


def test_a_second_of_compilation_is_explained_once(clock, capsys):
    listener = notice.Notice()
    compile_one(listener, clock, 0.6, "fmm.far.driver", inner=0.5)
    assert not capsys.readouterr().err  # what is nested does not count twice
    for _ in range(3):
        compile_one(listener, clock, 0.6, "multipoles.direct_cpu")
    assert capsys.readouterr().err == notice.LINE + "\n"


def test_the_kernels_of_others_are_their_matter(clock, capsys):
    listener = notice.Notice()
    compile_one(listener, clock, 60.0, "somebody.else")
    assert not capsys.readouterr().err


def test_no_line_where_none_is_wanted(monkeypatch):
    registered = []
    monkeypatch.setattr(notice.event, "register", lambda *what: registered.append(what))
    monkeypatch.setenv("MULTIPOLES_QUIET", "1")
    notice.listen()
    assert not registered
    monkeypatch.delenv("MULTIPOLES_QUIET")
    notice.listen()
    assert len(registered) == 1


def test_kernels_of_a_gpu_are_explained_too(monkeypatch, capsys):
    monkeypatch.setattr(notice, "_notice", notice.Notice())
    monkeypatch.setenv("MULTIPOLES_QUIET", "1")
    notice.spent(5.0)
    monkeypatch.delenv("MULTIPOLES_QUIET")
    notice.spent(0.9)
    assert not capsys.readouterr().err
    notice.spent(0.2)
    assert capsys.readouterr().err == notice.LINE + "\n"


def test_warmup_says_why_a_gpu_cannot_be_used(capsys):
    pytest.importorskip("numba.cuda")
    from multipoles.compiled.cuda_kernels import why_unusable

    assert main(["warmup", "--device", "tpu"]) == 2
    assert "expected a device cpu or cuda, got 'tpu'" in capsys.readouterr().err
    if why_unusable():
        assert main(["warmup", "--device", "cuda"]) == 2
        assert "no GPU can be used: " in capsys.readouterr().err


def test_warmup_sums_what_it_is_asked_to(capsys):
    assert main(["warmup", "--dtype", "float64"]) == 0
    assert capsys.readouterr().out.startswith(
        "float64, moments of order 0 to derivatives of order 1"
    )
    assert main(["warmup", "--order", "x"]) == 2
    assert "python -m fmm warmup: " in capsys.readouterr().err
