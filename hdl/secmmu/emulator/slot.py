"""The slot that the MMU stands in: its ports, so that another design can be put there."""

from amaranth.lib import stream, wiring
from amaranth.lib.wiring import In, Out

from secmmu.axi import Axi4LiteSignature, Axi4Signature
from secmmu.config import SecmmuConfig
from secmmu.layouts import (
    PA_BITS,
    VA_BITS,
    CommandLayout,
    CompletionLayout,
    DropinLayout,
    DroppedLayout,
    FaultLayout,
    ObservationLayout,
    ResumeLayout,
)

__all__ = ["OBSERVATION_LANES", "MmuSlotSignature", "ObservationSignature"]

OBSERVATION_LANES = (
    "observe_walk",
    "observe_walked",
    "observe_fill",
    "observe_kill",
    "observe_read_begin",
    "observe_read_end",
    "observe_write_begin",
    "observe_write_end",
)
"""Names of the observation lanes of the slot."""


class ObservationSignature(wiring.Signature):
    """One observation lane, seen from the MMU: no back-pressure, one observation in each cycle ``valid`` is 1."""

    def __init__(self) -> None:
        super().__init__({"valid": Out(1), "payload": Out(ObservationLayout())})


class MmuSlotSignature(wiring.Signature):
    """Ports of an MMU in the emulator, seen from the MMU.

    The emulator freezes the MMU between two cycles for as long as the host or a full record FIFO
    needs, so it may use any number of lanes in one cycle and is never asked to wait.

    Parameters
    ----------
    config : SecmmuConfig
        ``asid_bits``, ``id_bits`` and ``walks`` set the widths; ``svadu`` says whether the walk port writes, ``observe``
        whether the lanes are there.

    Members
    -------
    device : In(Axi4Signature)
        The DMA engines' port; virtual addresses, asid in AxUSER.
    memory : Out(Axi4Signature)
        Translated accesses; physical addresses, asid in AxUSER.
    walk : Out(Axi4Signature)
        Page-table reads, and with ``svadu`` exclusive writes; the id is the walk's number, asid in AxUSER.
    csr : In(Axi4LiteSignature)
        The register file, 12 address bits.
    command : In(stream of CommandLayout), dropin : In(stream of DropinLayout), resume : In(stream of ResumeLayout)
        From the host.
    invalidated, drained : Out(stream of CompletionLayout), dropped : Out(stream of DroppedLayout), fault : Out(stream
    of FaultLayout)
        To the host; taken in every cycle.
    idle : Out(1)
        1 when further cycles without input would change nothing: what *warp* leaves out.
    observe_* : Out(ObservationSignature)
        See :data:`OBSERVATION_LANES`.
    """

    def __init__(self, config: SecmmuConfig) -> None:
        ids, asids = config.id_bits, config.asid_bits
        members = {
            "device": In(Axi4Signature(addr_bits=VA_BITS, id_bits=ids, user_bits=asids)),
            "memory": Out(Axi4Signature(addr_bits=PA_BITS, id_bits=ids, user_bits=asids)),
            "walk": Out(
                Axi4Signature(
                    addr_bits=PA_BITS,
                    id_bits=config.walk_bits,
                    user_bits=asids,
                    write=config.svadu,
                )
            ),
            "csr": In(Axi4LiteSignature(addr_bits=12)),
            "command": In(stream.Signature(CommandLayout())),
            "dropin": In(stream.Signature(DropinLayout())),
            "resume": In(stream.Signature(ResumeLayout())),
            "invalidated": Out(stream.Signature(CompletionLayout())),
            "drained": Out(stream.Signature(CompletionLayout())),
            "dropped": Out(stream.Signature(DroppedLayout())),
            "fault": Out(stream.Signature(FaultLayout())),
            "idle": Out(1),
        }
        if config.observe:
            members |= {name: Out(ObservationSignature()) for name in OBSERVATION_LANES}
        super().__init__(members)
