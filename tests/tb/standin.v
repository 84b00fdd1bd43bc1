// Names as sim_top.v and the emitted emulator have them, with values that a reader of the waves can check.
`timescale 1ns / 1ps
module \emulator.emulated.mmu.invalidation (input wire clk);
  reg [2:0] \command__payload.kind = 3'd0;
  reg command__valid = 1'b0;
  wire command__ready = 1'b1;
  reg [1:0] \drained__payload.phase = 2'd0;
  reg \command__valid$7 = 1'b1;
  always @(posedge clk) begin
    \command__payload.kind <= \command__payload.kind + 3'd1;
    command__valid <= !command__valid;
  end
endmodule

module \emulator.emulated.mmu (input wire clk);
  reg [1:0] device__rresp = 2'd2;
  reg [63:0] device__araddr = 64'h1000;
  \emulator.emulated.mmu.invalidation invalidation (.clk(clk));
endmodule

module \emulator.emulated (input wire clk);
  \emulator.emulated.mmu mmu (.clk(clk));
endmodule

module emulator (input wire clk);
  \emulator.emulated emulated (.clk(clk));
endmodule

module sim_top;
  reg clk = 1'b0;
  reg [63:0] cycle;
  initial #20 cycle = 64'd0;
  always #5 clk = !clk;
  // As at the end of a warp, cycles are skipped.
  always @(posedge clk) cycle <= cycle + (cycle == 64'd9 ? 64'd40 : 64'd1);
  emulator emulator (.clk(clk));
  reg [8*1024-1:0] file;
  initial begin
    if ($value$plusargs("file=%s", file)) $dumpfile(file);
    $dumpvars(0, sim_top);
    #400 $finish;
  end
endmodule
