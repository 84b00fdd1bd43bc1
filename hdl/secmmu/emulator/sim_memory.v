// Storage of the emulator in simulation (Verilator, Icarus Verilog); the FPGA uses block RAM instead.
//
// secmmu_sim_memory  the emulated memory: WORDS words of 64 bits, 0 at the start.
//                    The plusarg +image=FILE loads a $readmemh image (64-bit words, @ word index) over it.
//                    device_*, walk_* and write_* act in clocks with run = 1: the store first, then the reads, whose
//                    data follows by one clock and stays. host_* acts in clocks with host_en = 1, while run is 0:
//                    any block in that one clock; host_data is the old word (READ, SWAP, CAS) from the next clock.
// secmmu_sim_tags    the sanitizer's tags: FRAMES tags of TAG_BITS bits, 0 at the start, one write port,
//                    three read ports without a clock.
//
// Addresses and counts are in words of 8 bytes; an address wraps at WORDS.

module secmmu_sim_memory #(
    parameter WORDS = 16777216,
    parameter ADDRESS_BITS = 24
) (
    input wire clk,
    input wire run,
    input wire device_en,
    input wire [ADDRESS_BITS-1:0] device_address,
    output reg [63:0] device_data,
    input wire walk_en,
    input wire [ADDRESS_BITS-1:0] walk_address,
    output reg [63:0] walk_data,
    input wire write_en,
    input wire [ADDRESS_BITS-1:0] write_address,
    input wire [63:0] write_data,
    input wire [7:0] write_strobe,
    input wire host_en,
    input wire [2:0] host_op,
    input wire [ADDRESS_BITS-1:0] host_address,
    input wire [ADDRESS_BITS-1:0] host_source,
    input wire [31:0] host_count,
    input wire [63:0] host_value,
    input wire [63:0] host_expected,
    output reg [63:0] host_data
);
  // HostOp of secmmu/emulator/ram.py.
  localparam OP_READ = 3'd0, OP_WRITE = 3'd1, OP_COPY = 3'd2, OP_FILL = 3'd3, OP_SWAP = 3'd4, OP_CAS = 3'd5;

  /* verilator lint_off BLKSEQ */
  // Two-state, so that Icarus has zeros without the loop, which takes it seconds.
  bit [63:0] words[0:WORDS-1];
  reg [8191:0] image;
  reg [63:0] strobed;
  reg [ADDRESS_BITS-1:0] source, destination;
  integer i;

  initial begin
`ifndef __ICARUS__
    for (i = 0; i < WORDS; i = i + 1) words[i] = 64'd0;
`endif
    device_data = 64'd0;
    walk_data = 64'd0;
    host_data = 64'd0;
    if ($value$plusargs("image=%s", image)) $readmemh(image, words);
  end

  always @(posedge clk) begin
    if (run) begin
      if (write_en) begin
        strobed = {
          {8{write_strobe[7]}}, {8{write_strobe[6]}}, {8{write_strobe[5]}}, {8{write_strobe[4]}},
          {8{write_strobe[3]}}, {8{write_strobe[2]}}, {8{write_strobe[1]}}, {8{write_strobe[0]}}
        };
        words[write_address] = (words[write_address] & ~strobed) | (write_data & strobed);
      end
      if (device_en) device_data <= words[device_address];
      if (walk_en) walk_data <= words[walk_address];
    end else if (host_en) begin
      case (host_op)
        OP_READ: host_data <= words[host_address];
        OP_WRITE: words[host_address] = host_value;
        OP_COPY: begin
          source = host_source;
          destination = host_address;
          for (i = 0; i < host_count; i = i + 1) begin
            words[destination] = words[source];
            source = source + 1'b1;
            destination = destination + 1'b1;
          end
        end
        OP_FILL: begin
          destination = host_address;
          for (i = 0; i < host_count; i = i + 1) begin
            words[destination] = host_value;
            destination = destination + 1'b1;
          end
        end
        OP_SWAP: begin
          host_data <= words[host_address];
          words[host_address] = host_value;
        end
        OP_CAS: begin
          host_data <= words[host_address];
          if (words[host_address] == host_expected) words[host_address] = host_value;
        end
        default: ;
      endcase
    end
  end
  /* verilator lint_on BLKSEQ */
endmodule

module secmmu_sim_tags #(
    parameter FRAMES = 32768,
    parameter FRAME_BITS = 15,
    parameter TAG_BITS = 34
) (
    input wire clk,
    input wire write_en,
    input wire [FRAME_BITS-1:0] write_frame,
    input wire [TAG_BITS-1:0] write_tag,
    input wire [FRAME_BITS-1:0] frame_0,
    output wire [TAG_BITS-1:0] tag_0,
    input wire [FRAME_BITS-1:0] frame_1,
    output wire [TAG_BITS-1:0] tag_1,
    input wire [FRAME_BITS-1:0] frame_2,
    output wire [TAG_BITS-1:0] tag_2
);
  reg [TAG_BITS-1:0] tags[0:FRAMES-1];
  integer i;

  initial for (i = 0; i < FRAMES; i = i + 1) tags[i] = {TAG_BITS{1'b0}};

  always @(posedge clk) if (write_en) tags[write_frame] <= write_tag;

  assign tag_0 = tags[frame_0];
  assign tag_1 = tags[frame_1];
  assign tag_2 = tags[frame_2];
endmodule
