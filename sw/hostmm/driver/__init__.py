"""The driver of the secondary MMU and its DMA engines, and the link to them."""
