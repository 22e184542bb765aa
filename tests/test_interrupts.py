"""Ctrl-C where it waits. What it does while kernels are compiled: test_threads.py."""

import signal
import threading

import pytest

from fastce.kernels import interrupts

HANDLERS = [signal.default_int_handler, signal.SIG_IGN, signal.SIG_DFL, lambda *_: None]


def ctrl_c():
    signal.raise_signal(signal.SIGINT)


@pytest.fixture(params=HANDLERS)
def handler(request):
    before = signal.signal(signal.SIGINT, request.param)
    yield request.param
    signal.signal(signal.SIGINT, before)


def test_it_comes_at_the_end():
    reached = False
    with pytest.raises(KeyboardInterrupt), interrupts.deferred():  # noqa: PT012
        ctrl_c()
        ctrl_c()
        reached = True
    assert reached
    with interrupts.deferred():  # once
        interrupts.deliver()


def test_it_comes_where_it_may():
    with pytest.raises(KeyboardInterrupt), interrupts.deferred():  # noqa: PT012
        interrupts.deliver()
        ctrl_c()
        with pytest.raises(KeyboardInterrupt):
            interrupts.deliver()
        interrupts.deliver()
        with interrupts.deferred():
            ctrl_c()
        reached = True
    assert reached


def test_an_error_comes_first():
    with pytest.raises(KeyboardInterrupt) as raised, interrupts.deferred():  # noqa: PT012
        ctrl_c()
        raise ValueError("of compiling")
    assert isinstance(raised.value.__context__, ValueError)


def test_what_was_there_is_there_again(handler):
    with interrupts.deferred():
        pass
    assert signal.getsignal(signal.SIGINT) is handler
    with pytest.raises(ValueError, match="of compiling"), interrupts.deferred():
        raise ValueError("of compiling")
    assert signal.getsignal(signal.SIGINT) is handler


def test_a_function_of_the_users_own():
    came = []
    before = signal.signal(signal.SIGINT, lambda number, frame: came.append(number))
    try:
        with interrupts.deferred():
            ctrl_c()
            assert came == []
            interrupts.deliver()
            assert came == [signal.SIGINT]
        assert came == [signal.SIGINT]
    finally:
        signal.signal(signal.SIGINT, before)


def test_what_is_ignored_stays_so():
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with interrupts.deferred():
            ctrl_c()
            interrupts.deliver()
    finally:
        signal.signal(signal.SIGINT, before)


def test_it_waits_for_the_main_thread():
    errors = []

    def other():
        try:
            with interrupts.deferred():
                interrupts.deliver()
        except BaseException as error:
            errors.append(error)

    with pytest.raises(KeyboardInterrupt), interrupts.deferred():  # noqa: PT012
        ctrl_c()
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        assert not errors
        interrupts.deliver()
