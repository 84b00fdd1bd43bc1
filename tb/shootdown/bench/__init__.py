"""What the tool and the hardware can do: speed, cycles, area and clock."""
