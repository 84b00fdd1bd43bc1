// Stands where the emulator will: answers MEM_READ with records that name the address, and ADVANCE some clocks late,
// while it already takes the next words. Other messages vanish.
module emulator (
    input wire clk,
    input wire rst,
    input wire [63:0] request__payload,
    input wire request__valid,
    output wire request__ready,
    output wire [255:0] records__payload,
    output wire records__valid,
    input wire records__ready,
    output reg [63:0] cycle
);
  reg [15:0] left;
  reg [7:0] op;
  reg [31:0] arg, echoed;
  reg [63:0] address;
  reg reading;
  reg [63:0] advanced[0:15];
  reg [3:0] head, tail;
  reg [2:0] delay;
  wire ripe = head != tail && delay == 3'd7;

  assign request__ready = !reading && (head - tail) < 4'd4;
  assign records__valid = reading || ripe;
  assign records__payload = reading ? {address, address + {32'd0, echoed}, cycle, echoed, 24'd0, 8'd1}
                                    : {128'd0, advanced[tail], 64'd0};

  always @(posedge clk)
    if (rst) begin
      {left, op, arg, echoed, reading, head, tail, delay, cycle} <= 0;
    end else begin
      cycle <= cycle + 64'd1;
      if (head != tail && delay != 3'd7) delay <= delay + 3'd1;
      if (request__valid && request__ready) begin
        if (left == 16'd0) begin
          op <= request__payload[7:0];
          left <= request__payload[31:16];
          arg <= request__payload[63:32];
        end else begin
          left <= left - 16'd1;
          if (op == 8'd2) begin
            address <= request__payload;
            reading <= arg != 32'd0;
          end
          if (op == 8'd12 && left == 16'd1) begin
            advanced[head] <= request__payload;
            head <= head + 4'd1;
          end
        end
      end
      if (records__ready && reading) begin
        echoed <= echoed + 32'd1 == arg ? 32'd0 : echoed + 32'd1;
        reading <= echoed + 32'd1 != arg;
      end else if (records__ready && ripe) begin
        tail <= tail + 4'd1;
        delay <= 3'd0;
      end
    end
endmodule
