"""AXI4 and AXI4-Lite as Amaranth signatures (Arm IHI 0022, AXI4), one signal a member, named as Arm names them.

Flattened by the Verilog back end a member becomes ``<interface>__araddr``, which cocotbext-axi finds with
``AxiBus.from_prefix(dut, "<interface>_")``.
"""

from amaranth.lib import enum, wiring
from amaranth.lib.wiring import In, Out

__all__ = ["Axi4LiteSignature", "Axi4Signature", "Burst"]


class Burst(enum.Enum, shape=2):
    """AxBURST."""

    FIXED = 0
    INCR = 1
    WRAP = 2


class Axi4Signature(wiring.Signature):
    """AXI4, seen from the manager.

    Parameters
    ----------
    addr_bits : int
        Width of AxADDR.
    id_bits, user_bits : int
        Widths of the ids and of AxUSER (which carries the asid here).
    write : bool
        False leaves out AW, W and B: a read-only manager.

    Members
    -------
    Data is 64 bits wide. AxLOCK, AxCACHE and AxPROT are there; AxQOS, AxREGION and the user bits of W, R and B
    are not.
    """

    def __init__(self, *, addr_bits: int, id_bits: int, user_bits: int, write: bool = True) -> None:
        self.addr_bits = addr_bits
        self.id_bits = id_bits
        self.user_bits = user_bits
        self.write = write

        def address(prefix: str) -> dict[str, wiring.Member]:
            return {
                f"{prefix}id": Out(id_bits),
                f"{prefix}addr": Out(addr_bits),
                f"{prefix}len": Out(8),
                f"{prefix}size": Out(3),
                f"{prefix}burst": Out(2, init=Burst.INCR.value),
                f"{prefix}lock": Out(1),
                f"{prefix}cache": Out(4),
                f"{prefix}prot": Out(3),
                f"{prefix}user": Out(user_bits),
                f"{prefix}valid": Out(1),
                f"{prefix}ready": In(1),
            }

        members = address("ar") | {
            "rid": In(id_bits),
            "rdata": In(64),
            "rresp": In(2),
            "rlast": In(1),
            "rvalid": In(1),
            "rready": Out(1),
        }
        if write:
            members |= address("aw") | {
                "wdata": Out(64),
                "wstrb": Out(8),
                "wlast": Out(1),
                "wvalid": Out(1),
                "wready": In(1),
                "bid": In(id_bits),
                "bresp": In(2),
                "bvalid": In(1),
                "bready": Out(1),
            }
        super().__init__(members)


class Axi4LiteSignature(wiring.Signature):
    """AXI4-Lite with 64-bit data, seen from the manager.

    Parameters
    ----------
    addr_bits : int
        Width of AxADDR, in bytes.
    """

    def __init__(self, *, addr_bits: int) -> None:
        self.addr_bits = addr_bits
        super().__init__(
            {
                "awaddr": Out(addr_bits),
                "awprot": Out(3),
                "awvalid": Out(1),
                "awready": In(1),
                "wdata": Out(64),
                "wstrb": Out(8),
                "wvalid": Out(1),
                "wready": In(1),
                "bresp": In(2),
                "bvalid": In(1),
                "bready": Out(1),
                "araddr": Out(addr_bits),
                "arprot": Out(3),
                "arvalid": Out(1),
                "arready": In(1),
                "rdata": In(64),
                "rresp": In(2),
                "rvalid": In(1),
                "rready": Out(1),
            }
        )
