"""Compiling what a kernel is made of once.

Numba makes machine code of every function it compiles, although what is only called by others becomes part of theirs;
and each of these gets a copy of all that it calls, and of all that calls, which LLVM optimizes once more, up to the
kernel. Here a part is optimized by itself, with what is inlined in it, and joins the rest in the kernel alone (rows one
by one, on a Zen 4: 33 seconds to compile in place of 46).
"""

from __future__ import annotations

from typing import Any

from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import Compiler

from .. import interrupts


class _NoEnvironment:
    """What Numba takes for its code generator when it hands a function the Python objects it names: parts name none."""

    def set_env(self, name: str, environment: Any) -> None:
        pass


class Part(JITCodeLibrary):
    """The code of a function that only compiled ones call."""

    codegen = _NoEnvironment()

    def __init__(self, codegen: Any, name: str, called: bool) -> None:
        super().__init__(codegen, name)
        self._called = called  # rather than inlined
        self._callees: dict[Part, None] = {}  # all that are called from here, each after who calls it

    def get_pointer_to_function(self, name: str) -> int:
        self._ensure_finalized()
        return 0

    def finalize(self) -> None:
        self._raise_if_finalized()
        for library in dict.fromkeys(self._linking_libraries):
            if isinstance(library, Part):
                if library._called:
                    self._callees[library] = None
                else:
                    self._final_module.link_in(library._alone(), preserve=True)
                self._callees.update(library._callees)
            else:
                self._final_module.link_in(library._get_module_for_linking(), preserve=True)
        self._optimize_final_module()
        self._final_module.verify()
        self._finalized = True

    def _alone(self) -> Any:
        """The module of this function, to link, without those that it calls."""
        return super()._get_module_for_linking()

    def _get_module_for_linking(self) -> Any:
        """The same, with all of them: what a kernel takes."""
        module = self._alone().clone()
        for part in self._callees:  # (LLVM takes in what is called from what it has)
            module.link_in(part._alone(), preserve=True)
        return module


class InlineCompiler(Compiler):
    """Compiles a function into a ``Part`` that becomes part of whoever calls it."""

    called = False

    def define_pipelines(self) -> Any:
        interrupts.deliver()
        state = self.state
        state.library = Part(state.targetctx.codegen(), state.func_id.func_qualname, self.called)
        return super().define_pipelines()


class DeviceCompiler(InlineCompiler):
    """Compiles a function into a ``Part`` that is called."""

    called = True
