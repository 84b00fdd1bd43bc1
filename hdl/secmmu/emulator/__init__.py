"""The FPGA top around the MMU: DMA engines, memory, frame sanitizer, observation stream, link endpoint."""
