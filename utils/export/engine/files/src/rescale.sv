// level = clip((acc * m + 2^(f-1)) >>> f, lo, hi), m_neg where acc < 0, f from 1 up; five clocks. `plain`: acc as it is.
module rescale #(
    parameter int ACC = 32, GAIN = 17, LEVEL = 9
) (
    input  logic                    clk,
    input  logic signed [ACC-1:0]   acc,
    input  logic signed [GAIN-1:0]  m,
    input  logic signed [GAIN-1:0]  m_neg,
    input  logic [5:0]              f,
    input  logic signed [LEVEL-1:0] lo,
    input  logic signed [LEVEL-1:0] hi,
    input  logic                    plain,
    output logic signed [LEVEL-1:0] level
);
    localparam int WIDE = ACC + GAIN + 1;
    localparam logic signed [WIDE-1:0] ONE = 1;

    logic signed [ACC-1:0] taken;
    logic signed [GAIN-1:0] gain;
    logic signed [WIDE-1:0] wide_taken, wide_gain, wide_lo, wide_hi, product, rounded, shifted;

    assign wide_taken = WIDE'(taken);
    assign wide_gain = WIDE'(gain);
    assign wide_lo = WIDE'(lo);
    assign wide_hi = WIDE'(hi);

    always_ff @(posedge clk) begin
        taken <= acc;
        gain <= acc < 0 ? m_neg : m;
        product <= plain ? wide_taken : wide_taken * wide_gain;
        rounded <= plain ? product : product + ((ONE << f) >>> 1);
        shifted <= plain ? rounded : rounded >>> f;
        level <= plain ? shifted[LEVEL-1:0] : shifted < wide_lo ? lo : shifted > wide_hi ? hi : shifted[LEVEL-1:0];
    end
endmodule
