// Top of a simulation of the emulator: its clock, its reset, and the mailbox through which Python speaks to it.
//
// Python names the file that records are to be written to, raw, and flips `attach`. Then, for each batch, it fills
// `words` and `words_count`, sets `final_part` when they end the batch, and flips `give`. The mailbox feeds them to
// the emulator and writes its records. It flips `wake` once, when
//   - the words are used up and, where they end the batch, each ADVANCE in it has been answered: `done` is 1, or
//   - RECORDS have been written: `done` is 0, and Python flips `resume` when it has taken them.
// No simulated time passes while Python answers: each wake costs one clock. What Python writes is read by clocked
// processes only; logic that depended on it would have to be evaluated in every step, with all behind it.

module sim_top;
  localparam ROWS = 16;  // of 16 words each
  localparam RECORDS = 1024;  // half of what a pipe holds
  localparam OP_ADVANCE = 8'd12;  // Op and Event of secmmu/layouts.py
  localparam EVENT_ADVANCED = 8'd0;

  reg clk = 1'b0;
  reg rst = 1'b1;

  // Written by Python.
  reg [1023:0] words[0:ROWS-1];
  reg [8:0] words_count = 9'd0;
  reg final_part = 1'b0;
  reg [255:0] path = 256'd0;
  reg attach = 1'b0;
  reg give = 1'b0;
  reg resume = 1'b0;

  // Read by Python.
  reg ready = 1'b0;  // after reset
  reg [10:0] records_count = 11'd0;
  reg done = 1'b0;
  reg wake = 1'b0;

  wire [63:0] cycle;
  wire request_ready;
  wire records_valid;
  wire [255:0] records_payload;

  reg running = 1'b0, given = 1'b0, resumed = 1'b0, last_part = 1'b0;
  reg [8:0] limit = 9'd0, position = 9'd0;
  reg [15:0] payload_left = 16'd0;
  reg [15:0] advances = 16'd0;
  reg request_valid = 1'b0;
  reg [63:0] request_payload;
  wire records_ready = running;

  wire taken = request_valid && request_ready;
  wire kept = records_valid && records_ready;
  wire header = taken && payload_left == 16'd0;
  wire more = taken ? position != limit : request_valid;
  wire [10:0] next_count = records_count + {10'd0, kept};
  wire [15:0] next_advances = advances + {15'd0, header && request_payload[7:0] == OP_ADVANCE}
                            - {15'd0, kept && records_payload[7:0] == EVENT_ADVANCED};
  wire exhausted = !more && (!last_part || next_advances == 16'd0);

  emulator emulator (
      .clk(clk),
      .rst(rst),
      .request__payload(request_payload),
      .request__valid(request_valid),
      .request__ready(request_ready),
      .records__payload(records_payload),
      .records__valid(records_valid),
      .records__ready(records_ready),
      .cycle(cycle)
  );

`ifdef SHOOTDOWN_WAVES
  always #5 clk = !clk;
`else
  // Nothing looks at the falling edge: without a time step of its own it costs nearly nothing.
  always begin
    #10 clk = 1'b1;
    #0 clk = 1'b0;
  end
`endif
  initial #36 rst = 1'b0;

`ifdef SHOOTDOWN_WAVES
  // Waves of a part only: into +waves_file, once `cycle` has reached +waves_from. Otherwise whoever runs this model
  // has it record from the start.
  reg [63:0] waves_from;
  reg [8*1024-1:0] waves_file;
  initial
    if ($value$plusargs("waves_from=%d", waves_from) && $value$plusargs("waves_file=%s", waves_file)) begin
      wait (cycle >= waves_from);
      $dumpfile(waves_file);
      $dumpvars(0, sim_top);
    end
`endif

  integer file = 0;
  always @(attach) begin
    if (file != 0) $fclose(file);
    file = $fopen(path, "wb");
  end

  always @(posedge clk)
    if (!rst) begin
      ready <= 1'b1;
      advances <= next_advances;
      if (taken) begin
        payload_left <= header ? request_payload[31:16] : payload_left - 16'd1;
        request_valid <= more;
        request_payload <= words[position[7:4]][{position[3:0], 6'd0}+:64];
        position <= position + 9'd1;
      end
      if (kept) $fwrite(file, "%u", records_payload);
      if (running) begin
        records_count <= next_count;
        if (exhausted || next_count == RECORDS) begin
          $fflush(file);
          running <= 1'b0;
          done <= exhausted;
          // A moment later, when all else of this clock has settled.
          wake <= #1 !wake;
        end
      end else if (give != given) begin
        given <= give;
        last_part <= final_part;
        limit <= words_count;
        position <= 9'd1;
        request_valid <= words_count != 9'd0;
        request_payload <= words[0][63:0];
        records_count <= 11'd0;
        running <= 1'b1;
      end else if (resume != resumed) begin
        resumed <= resume;
        records_count <= 11'd0;
        running <= 1'b1;
      end
    end
endmodule
