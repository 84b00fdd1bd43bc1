"""A functional model of the emulator: the same messages, the same records, a simple timing of its own.

It explores schedules fast and is the reference for what the hardware does; how long the hardware takes is the RTL's
to say. Differences from the RTL: the beats of a burst are sampled (or stored) together, and each direction's
front-end, the walker and the memory have fixed latencies.
"""

from hostmm.model.emulator import Model

__all__ = ["Model"]
