// n = clip((acc * m + 2^(F-1)) >>> F, LO, HI); m_neg stands in for m where acc < 0. Where F <= 0 it shifts to the left.
module requantise #(
    parameter int ACC = 32, GAIN = 17, F = 16, LO = 0, HI = 255, LEVEL = 9
) (
    input  logic signed [ACC-1:0]   acc,
    input  logic signed [GAIN-1:0]  m,
    input  logic signed [GAIN-1:0]  m_neg,
    output logic signed [LEVEL-1:0] level
);
    localparam int UP = F < 0 ? -F : 0;
    localparam int DOWN = F > 0 ? F : 0;
    localparam int WIDE = ACC + GAIN + UP + 1;
    localparam logic signed [WIDE-1:0] ONE = 1;
    localparam logic signed [WIDE-1:0] LOWEST = WIDE'(LO);
    localparam logic signed [WIDE-1:0] HIGHEST = WIDE'(HI);
    localparam logic signed [WIDE-1:0] HALF = F > 0 ? (ONE <<< DOWN) >>> 1 : 0;

    logic signed [WIDE-1:0] wide_acc, wide_m, product, shifted, clipped;

    assign wide_acc = WIDE'(acc);
    assign wide_m = acc < 0 ? WIDE'(m_neg) : WIDE'(m);
    assign product = wide_acc * wide_m;
    assign shifted = ((product <<< UP) + HALF) >>> DOWN;
    assign clipped = shifted < LOWEST ? LOWEST : shifted > HIGHEST ? HIGHEST : shifted;
    assign level = clipped[LEVEL-1:0];
endmodule
