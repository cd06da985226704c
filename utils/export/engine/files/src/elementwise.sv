// Lane by lane n * gain, two clocks after its operands: shortcuts, one source a tap, and gates.
module elementwise #(
    parameter int L = 8, LEVEL = 9, GAIN = 18, ACC = 32
) (
    input  logic               clk,
    input  logic [L*LEVEL-1:0] n,
    /* verilator lint_off UNUSEDSIGNAL */  // a network's gains may be narrower
    input  logic [L*32-1:0]    gains,  // 32 bits each, of which GAIN count
    /* verilator lint_on UNUSEDSIGNAL */
    output logic [L*ACC-1:0]   product
);
    localparam int WIDE = LEVEL + GAIN;

    genvar i;
    generate
        for (i = 0; i < L; i = i + 1) begin : lane
            logic signed [LEVEL-1:0] level;
            logic signed [GAIN-1:0] gain;
            logic signed [WIDE-1:0] wide_level, wide_gain, made;
            /* verilator lint_off UNUSEDSIGNAL */  // the network's sums fit ACC bits, whatever two such factors could give
            logic signed [WIDE-1:0] kept;
            /* verilator lint_on UNUSEDSIGNAL */
            assign level = n[LEVEL*i+:LEVEL];
            assign gain = gains[32*i+:GAIN];
            assign wide_level = WIDE'(level);
            assign wide_gain = WIDE'(gain);
            always_ff @(posedge clk) begin
                made <= wide_level * wide_gain;
                kept <= made;
            end
            assign product[ACC*i+:ACC] = ACC'(kept);
        end
    endgenerate
endmodule
