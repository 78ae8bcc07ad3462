"""
The catalogue of detectors: one file a fault, in the order in which they look.

To add one: write its file (the class docstring is its manual page) and put it into DETECTORS. The order breaks ties
when findings begin at the same step: what explains others comes first.
"""

from __future__ import annotations

from trainvitals_monitor.detectors.average_aliased import AverageAliased
from trainvitals_monitor.detectors.average_stuck import AverageStuck
from trainvitals_monitor.detectors.base_weights_moved import BaseWeightsMoved
from trainvitals_monitor.detectors.batch_norm_frozen import BatchNormFrozen
from trainvitals_monitor.detectors.batch_repeated import BatchRepeated
from trainvitals_monitor.detectors.buffer_stuck import BufferStuck
from trainvitals_monitor.detectors.checkpoint_incomplete import CheckpointIncomplete
from trainvitals_monitor.detectors.checkpoint_keys_changed import CheckpointKeysChanged
from trainvitals_monitor.detectors.checkpoint_stale import CheckpointStale
from trainvitals_monitor.detectors.codebook_collapse import CodebookCollapse
from trainvitals_monitor.detectors.contract_broken import ContractBroken
from trainvitals_monitor.detectors.counter_stuck import CounterStuck
from trainvitals_monitor.detectors.detector import Alert, Claim, Detector, Threshold
from trainvitals_monitor.detectors.differs_from_reference import DiffersFromReference
from trainvitals_monitor.detectors.dropout_lost import DropoutLost
from trainvitals_monitor.detectors.dtype_changed import DtypeChanged
from trainvitals_monitor.detectors.eval_mode_in_training import EvalModeInTraining
from trainvitals_monitor.detectors.expert_bias_drift import ExpertBiasDrift
from trainvitals_monitor.detectors.expert_dead import ExpertDead
from trainvitals_monitor.detectors.expert_load_imbalance import ExpertLoadImbalance
from trainvitals_monitor.detectors.frozen_parameter_moved import FrozenParameterMoved
from trainvitals_monitor.detectors.frozen_statistics_moved import FrozenStatisticsMoved
from trainvitals_monitor.detectors.gradient_clipped_away import GradientClippedAway
from trainvitals_monitor.detectors.gradient_explosion import GradientExplosion
from trainvitals_monitor.detectors.gradient_missing import GradientMissing
from trainvitals_monitor.detectors.gradient_not_cleared import GradientNotCleared
from trainvitals_monitor.detectors.gradient_vanishing import GradientVanishing
from trainvitals_monitor.detectors.gradient_zero import GradientZero
from trainvitals_monitor.detectors.learning_rate_jump import LearningRateJump
from trainvitals_monitor.detectors.learning_rate_vanished import LearningRateVanished
from trainvitals_monitor.detectors.learning_rate_zero import LearningRateZero
from trainvitals_monitor.detectors.load_incomplete import LoadIncomplete
from trainvitals_monitor.detectors.lora_a_growth import LoraAGrowth
from trainvitals_monitor.detectors.lora_b_stuck import LoraBStuck
from trainvitals_monitor.detectors.lora_dead import LoraDead
from trainvitals_monitor.detectors.loss_at_chance import LossAtChance
from trainvitals_monitor.detectors.loss_non_finite import LossNonFinite
from trainvitals_monitor.detectors.loss_spike import LossSpike
from trainvitals_monitor.detectors.moments_permuted import MomentsPermuted
from trainvitals_monitor.detectors.non_finite import NonFinite
from trainvitals_monitor.detectors.norm_collapse import NormCollapse
from trainvitals_monitor.detectors.norm_explosion import NormExplosion
from trainvitals_monitor.detectors.optimizer_holds_dead_parameter import OptimizerHoldsDeadParameter
from trainvitals_monitor.detectors.optimizer_state_low_precision import OptimizerStateLowPrecision
from trainvitals_monitor.detectors.optimizer_state_reset import OptimizerStateReset
from trainvitals_monitor.detectors.parameter_not_in_optimizer import ParameterNotInOptimizer
from trainvitals_monitor.detectors.parameter_stuck import ParameterStuck
from trainvitals_monitor.detectors.replica_divergence import ReplicaDivergence
from trainvitals_monitor.detectors.replicas_fed_same_batch import ReplicasFedSameBatch
from trainvitals_monitor.detectors.resume_discontinuity import ResumeDiscontinuity
from trainvitals_monitor.detectors.resume_mismatched import ResumeMismatched
from trainvitals_monitor.detectors.resume_not_applied import ResumeNotApplied
from trainvitals_monitor.detectors.router_collapse import RouterCollapse
from trainvitals_monitor.detectors.router_untrained import RouterUntrained
from trainvitals_monitor.detectors.schedule_ended_early import ScheduleEndedEarly
from trainvitals_monitor.detectors.schedule_overrun import ScheduleOverrun
from trainvitals_monitor.detectors.slot_replaced import SlotReplaced
from trainvitals_monitor.detectors.steps_skipped import StepsSkipped
from trainvitals_monitor.detectors.tensor_added_or_lost import TensorAddedOrLost
from trainvitals_monitor.detectors.tensor_unregistered import TensorUnregistered
from trainvitals_monitor.detectors.tied_weights_broken import TiedWeightsBroken
from trainvitals_monitor.detectors.units_alike import UnitsAlike
from trainvitals_monitor.detectors.update_ratio_out_of_range import UpdateRatioOutOfRange
from trainvitals_monitor.detectors.updates_lost import UpdatesLost
from trainvitals_monitor.detectors.weights_overwritten import WeightsOverwritten
from trainvitals_monitor.detectors.workers_fed_same_data import WorkersFedSameData
from trainvitals_monitor.detectors.wrong_from_initialisation import WrongFromInitialisation

DETECTORS: tuple[type[Detector], ...] = (
    SlotReplaced,
    TiedWeightsBroken,
    AverageAliased,
    DtypeChanged,
    ContractBroken,
    WrongFromInitialisation,
    UnitsAlike,
    LoadIncomplete,
    ResumeNotApplied,
    ResumeMismatched,
    ResumeDiscontinuity,
    MomentsPermuted,
    OptimizerStateReset,
    WeightsOverwritten,
    CheckpointStale,
    CheckpointIncomplete,
    CheckpointKeysChanged,
    ReplicaDivergence,
    ReplicasFedSameBatch,
    BatchRepeated,
    WorkersFedSameData,
    OptimizerHoldsDeadParameter,
    ParameterNotInOptimizer,
    TensorUnregistered,
    TensorAddedOrLost,
    StepsSkipped,
    LearningRateZero,
    LearningRateVanished,
    ScheduleEndedEarly,
    ScheduleOverrun,
    LearningRateJump,
    LoraDead,
    GradientMissing,
    GradientZero,
    GradientNotCleared,
    GradientClippedAway,
    GradientVanishing,
    UpdateRatioOutOfRange,
    FrozenParameterMoved,
    BaseWeightsMoved,
    OptimizerStateLowPrecision,
    CounterStuck,
    UpdatesLost,
    ParameterStuck,
    EvalModeInTraining,
    DropoutLost,
    BatchNormFrozen,
    FrozenStatisticsMoved,
    BufferStuck,
    AverageStuck,
    CodebookCollapse,
    LoraAGrowth,
    LoraBStuck,
    ExpertBiasDrift,
    RouterUntrained,
    RouterCollapse,
    ExpertDead,
    ExpertLoadImbalance,
    NonFinite,
    NormExplosion,
    NormCollapse,
    GradientExplosion,
    LossNonFinite,
    LossSpike,
    LossAtChance,
    DiffersFromReference,
)

__all__ = ["DETECTORS", "Alert", "Claim", "Detector", "Threshold"]
