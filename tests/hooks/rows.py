"""
The hook matrix in one process: a row per way of wrapping, compiling, stepping and saving.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from tests.hooks.compiled_rows import (
    activation_checkpointing,
    activation_checkpointing_compiled,
    activation_checkpointing_compiled_blocks,
    activation_checkpointing_reentrant,
    compile_aot_eager,
    compile_attached_inside,
    compile_blocks_in_place,
    compile_in_place,
    compile_inductor,
    compile_replaced_blocks,
    compile_with_breaks,
    compiled_iteration,
    compiled_model_and_step,
    compiled_step,
    compiled_step_with_scheduler,
    plain,
    save_and_load,
    save_by_dcp,
    save_by_torch,
)
from tests.hooks.routed_rows import (
    mixture,
    mixture_checkpointed,
    mixture_checkpointed_by_operator,
    mixture_compiled,
    mixture_in_a_compiled_function,
)
from tests.hooks.running import Row, Trainer
from tests.hooks.stepping_rows import (
    accumulation,
    alternating_optimizers,
    autocast,
    foreach_optimizer,
    fused_optimizer,
    fused_sgd,
    lbfgs,
    lookahead,
    optimizer_in_backward,
    optimizer_in_backward_compiled,
    sam,
    sam_in_halves,
    scaler_that_skips,
    scaler_with_fused,
    schedule_free,
    single_tensor_optimizer,
    two_optimizers,
)


def _rows(builds: Iterable[Callable[[], Trainer]], graphs: int | None = None) -> tuple[Row, ...]:
    return tuple(Row(build, graphs=graphs) for build in builds)


ROWS: tuple[Row, ...] = (
    *_rows((plain, activation_checkpointing, activation_checkpointing_reentrant), graphs=0),
    *_rows((compile_inductor, compile_aot_eager, compile_in_place), graphs=1),
    *_rows((compile_attached_inside, activation_checkpointing_compiled), graphs=1),
    *_rows((compile_replaced_blocks, compile_blocks_in_place), graphs=1),
    *_rows((compile_with_breaks, activation_checkpointing_compiled_blocks)),
    Row(compiled_step, graphs=1, compiles_step=True),
    Row(compiled_step_with_scheduler, compiles_step=True),
    Row(compiled_model_and_step, graphs=2, compiles_step=True),
    Row(compiled_iteration, graphs=2, compiles_step=True),
    *_rows((accumulation, autocast)),
    Row(scaler_that_skips, steps=4),
    Row(scaler_with_fused),
    *_rows((two_optimizers, lookahead, sam, sam_in_halves, schedule_free, lbfgs)),
    Row(alternating_optimizers, steps=3),
    *_rows((optimizer_in_backward, optimizer_in_backward_compiled)),
    *_rows((foreach_optimizer, single_tensor_optimizer, fused_optimizer, fused_sgd)),
    *_rows((mixture, mixture_checkpointed, mixture_checkpointed_by_operator), graphs=0),
    *_rows((mixture_compiled, mixture_in_a_compiled_function), graphs=1),
    *_rows((save_by_torch, save_by_dcp, save_and_load)),
)
