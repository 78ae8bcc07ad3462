"""What torchtitan on a CPU needs of itself; an override, so that its own command line can ask for it."""

import torchtitan.distributed.utils
from torchtitan.config.override import override
from torchtitan.models.common.attention import FlexAttention, ScaledDotProductAttention

# A barrier on device ids, which gloo has not.
torchtitan.distributed.utils.set_pg_timeouts = lambda *_, **__: None


@override(target=FlexAttention.Config)
def on_cpu(_):
    """FlexAttention has no backward pass on a CPU; torchtitan's other attention has."""
    return ScaledDotProductAttention.Config()
