"""
All places that hold the training state: what is there, what changed since the last look, and how it is cut and named.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import nn
from torch.optim import Optimizer

from trainvitals.cores import CorePlan, plan_cores
from trainvitals.dtypes import reading
from trainvitals.frame import SlotChanged, TensorInfo
from trainvitals.glance import Glance
from trainvitals.holders import Holders
from trainvitals.holding import Holding, Holdings
from trainvitals.layout import Layout, is_dtensor, layout_of, local_part
from trainvitals.places import Place, Root, find_in, roots
from trainvitals.replicas import Replicas
from trainvitals.slot import Slot, is_shapeless, words
from trainvitals.unregistered import UnregisteredPlace


class SlotTable:
    """
    All slots of the attached models; indices are per rank and attempt, and never used twice.

    Everything runs on the trainer's thread, without synchronising a device. Modules are held weakly; the dicts that their
    tensors hang in are kept until `drop`. The first real step calls `rebaseline`: what initialises, casts and shards
    before it is no change.
    """

    def __init__(
        self,
        models: Sequence[nn.Module],
        *,
        world_size: int = 1,
        replicas: Callable[[torch.Tensor], Iterable[int]] | None = None,
    ) -> None:
        self.world_size = world_size
        self.slots: list[Slot] = []
        self.params_version = 0
        """Grows whenever a slot of a parameter holds another object than before."""
        self.version = 0
        """Grows with new slots, and whenever one changes its shape or device: what is known of their sizes is old."""
        self.places_version = 0
        """Grows whenever tensors are found in other places than before, or the places are dropped."""
        self.renamed: list[int] = []
        """Slots whose raw name, kind or persistence the last walk found changed; the canonical name never does."""
        self.unregistered: list[UnregisteredPlace] = []  # as the probe of that name found them last
        self._roots = [Root(model) for model in roots(models)]
        for root in self._roots:
            root.remember_parts()
        self.replicas = Replicas(replicas)
        """The DDP wrappers, as they were found before the first step; none in a job of one process."""
        self._by_fqn: dict[str, Slot] = {}
        self._holders = Holders(self.slots)
        self._places: list[Place] | None = None
        self._glance = Glance(self.slots)
        self._holdings = Holdings(self)
        self.rebaseline()

    def __len__(self) -> int:
        return len(self.slots)

    @property
    def models(self) -> list[nn.Module]:
        """The attached models that are still there; of a container that is gone, its parts."""
        return [module for root in self._roots for _, module in root.parts()]

    def fqn(self, index: int) -> str:
        """The canonical name, unique over all models."""
        return self.slots[index].place.fqn

    def raw_fqn(self, index: int) -> str:
        """The name that the module tree has now (without the prefix that tells several models apart)."""
        return self.slots[index].place.raw_fqn

    def tensor(self, index: int) -> torch.Tensor | None:
        """The object in the slot now; None if there is none, or one without a shape (lazy, nested)."""
        slot = self.slots[index]
        same = slot.unmoved()
        if same is not None:
            return same
        tensor = slot.now()
        return None if tensor is None or is_shapeless(tensor) else tensor

    def local(self, index: int) -> torch.Tensor | None:
        """
        This rank's part now, plain and detached.

        None where `layout` and `plan` would not fit it: nothing there, gathered for the moment by FSDP2, or of another
        shape or device than last judged.
        """
        slot = self.slots[index]
        if slot.is_plain and slot.is_same():
            same = slot.reference()
            return None if same is None else same.detach()
        tensor = self.tensor(index)
        if tensor is None or slot.state is None or is_dtensor(tensor) != slot.sharded:
            return None
        if tensor.shape != slot.state.shape or tensor.device != slot.state.device:
            return None
        return local_part(tensor)

    def parts(self, indices: Iterable[int]) -> tuple[list[int], list[torch.Tensor]]:
        """
        The parts of those that have one now, for reading without a graph: a parameter may come as it is, not detached.

        As `local`, but that a tensor may come that has been given another shape in its old place.
        """
        there: list[int] = []
        parts: list[torch.Tensor] = []
        slots = self.slots
        for index in indices:
            part = slots[index].unmoved()
            if part is None:
                part = self.local(index)
            if part is not None:
                there.append(index)
                parts.append(part)
        return there, parts

    def readable(self, index: int) -> bool:
        """Whether its elements can be read where they lie (not sparse, quantised, on meta, or freed for now)."""
        part = self.local(index)
        return part is not None and reading(part) is not None

    def layout(self, index: int) -> Layout:
        """What part of the global tensor this rank holds."""
        slot = self.slots[index]
        if slot.layout is None:
            tensor = self.tensor(index)
            slot.layout = (
                Layout("unknown", (), (), ())
                if tensor is None
                else layout_of(
                    tensor,
                    replicas=self.replicas.ranks_of(slot.place, tensor),
                    world_size=self.world_size,
                )
            )
        return slot.layout

    def plan(self, index: int) -> CorePlan:
        """Where to cut it; made at the first call."""
        slot = self.slots[index]
        if slot.plan is None:
            device = slot.state.device if slot.state else torch.device("cpu")
            slot.plan = plan_cores(slot.place.fqn, self.layout(index), device)
        return slot.plan

    def info(self, index: int) -> TensorInfo:
        """Its row of the tensor table."""
        slot, layout = self.slots[index], self.layout(index)
        return TensorInfo(
            index=index,
            fqn=slot.place.fqn,
            raw_fqn=slot.place.raw_fqn,
            kind=slot.place.kind,
            dtype=str(slot.state.dtype).removeprefix("torch.") if slot.state else "",
            shape=list(layout.shape),
            trainable=slot.state.trainable if slot.state else False,
            persistent=slot.place.persistent,
            module=slot.place.module,
            layout=layout.kind,
            offsets=list(layout.offsets),
            sizes=list(layout.sizes),
            replica_group=layout.replica_group,
            tied_to=self.tied_to(index),
        )

    def indices_of(self, tensor: torch.Tensor) -> list[int]:
        """The slots that hold this very object; more than one if it is tied."""
        return self._holders.of(tensor)

    def hold_any(self, tensors: Iterable[torch.Tensor]) -> bool:
        """Whether any slot holds one of these objects now, judged or not; looks at every slot."""
        wanted = {id(tensor) for tensor in tensors}
        return any(id(slot.now()) in wanted for slot in self.slots)

    def index_of(self, tensor: torch.Tensor) -> int | None:
        """The first slot that holds this very object."""
        return next(iter(self.indices_of(tensor)), None)

    def tied_to(self, index: int) -> int:
        """The first slot that holds the same object, -1 if this is the first or the only one."""
        tensor = self.slots[index].now()
        first = None if tensor is None else self.index_of(tensor)
        return -1 if first is None or first == index else first

    def holding(self, optimizer: Optimizer) -> Holding:
        """Which tensors the optimizer holds; kept until its groups or the models' parameters change."""
        return self._holdings.of(optimizer)

    def held(self) -> npt.NDArray[np.bool_]:
        """Per tensor: whether any optimizer holds it that `holding` was asked about."""
        return self._holdings.held()

    def optimizers(self) -> list[Optimizer]:
        """The optimizers that `holding` was asked about and that still exist."""
        return self._holdings.optimizers()

    def check(self, indices: Collection[int] | None = None, step: int = 0) -> list[SlotChanged]:
        """
        The slots that no longer hold what they held; each is judged anew from here on. 0.3 us a slot, 0.6 us one by one.

        Only meant at steps and saves. A DTensor's slot that holds a plain tensor is passed over: FSDP2 has gathered it.
        """
        events = []
        slots = self.slots
        if indices is None or len(indices) == len(slots):
            indices = self._glance.suspects()
        for index in indices:
            slot = slots[index]
            if slot.is_same():
                continue
            tensor = slot.now()
            if slot.sharded and tensor is not None and not is_dtensor(tensor):
                continue
            events.append(self._changed(slot, tensor, step))
        return events

    def walk(self, step: int = 0) -> list[SlotChanged]:
        """
        As `check` of all, after looking for every tensor anew: modules that were replaced, added or taken away are
        only seen here. Some us a tensor.
        """
        self._find()
        return self.check(None, step)

    def rebaseline(self, step: int = 0) -> None:
        """Look for every tensor anew and take what is there as right from this step on."""
        self._find()
        if self.world_size > 1:
            self.replicas.find(self.models)
        for slot in self.slots:
            if self.world_size > 1:
                slot.layout = slot.plan = None
            self._adopt(slot, slot.now(), step)

    def let_go(self) -> None:
        """Refer to the tensors no more: weak references are in the way of others (swaps.py). Ends `check` for good."""
        for slot in self.slots:
            slot.let_go()

    def drop(self) -> None:
        """Keep nothing of the models; only names and what was known of the tensors is left."""
        self.let_go()
        self._roots, self.unregistered, self._places = [], [], None
        self.places_version += 1
        self._glance.outdate()
        self._holdings = Holdings(self)
        for slot in self.slots:
            slot.move(slot.place.emptied())

    def is_abandoned(self) -> bool:
        """Whether nobody holds a model, nor a module with a tensor of ours, any more. Any thread; 0.2 us if not."""
        return all(root.model() is None for root in self._roots) and all(
            slot.place.home() is None for slot in self.slots
        )

    def is_of(self, model: nn.Module) -> bool:
        """Whether it is one of the attached models."""
        return any(root.model() is model for root in self._roots)

    def _find(self) -> None:
        self.renamed = []
        places = find_in(self._roots, self._places)
        if places is self._places:
            return
        self._places = places
        self.places_version += 1
        self._glance.outdate()
        missing = dict(self._by_fqn)
        for place in places:
            slot = missing.pop(place.fqn, None)
            if slot is None:
                slot = Slot(len(self.slots), place, self._glance.deaths)
                self.slots.append(slot)
                self._by_fqn[place.fqn] = slot
                self.version += 1
            elif slot.place.names() != place.names():
                self.renamed.append(slot.index)
            slot.move(place)
        for slot in missing.values():
            # That the trainer has dropped a whole model is no loss of its tensors.
            if self._roots[slot.place.root].has_place_for(slot.place.raw_fqn):
                slot.move(slot.place.emptied())

    def _changed(self, slot: Slot, tensor: torch.Tensor | None, step: int) -> SlotChanged:
        before, was_there, shared = slot.state, slot.reference(), self._holders.beside(slot)
        self._adopt(slot, tensor, step)
        if before is None or slot.state is None:
            changes = ["added" if before is None else "lost"]
        else:
            changes = [] if tensor is was_there else ["object"]
            changes += before.differences(slot.state)
        return SlotChanged(
            tensor=slot.index,
            step=step,
            changes=changes,
            before=words(before),
            after=words(slot.state),
            untied=[index for index in shared if self.slots[index].now() is not tensor],
            outlived=slot.predecessors.outlived(step),
        )

    def _adopt(self, slot: Slot, tensor: torch.Tensor | None, step: int) -> None:
        before, was_there, was_sharded = slot.state, slot.reference(), slot.sharded
        slot.adopt(tensor, step)
        state = slot.state
        resized = before is None or state is None or before[2:4] != state[2:4]
        # A re-assigned cache keeps its plan: making one costs as much as many looks. A DTensor's placements may differ.
        if resized or was_sharded or slot.sharded:
            slot.layout = slot.plan = None
        self.version += resized
        if tensor is None or tensor is not was_there:
            self.params_version += slot.place.kind == "param"
            self._holders.move(slot, tensor)
        self._glance.renew(slot)
