// Integrate and fire, reset by subtraction. Once its inputs' window is over (load), V = theta/2 + acc * m; in each step of
// its own window (fire) +1 where V >= theta and fewer than HI were fired, -1 where V < 0 and more than LO; V falls by
// theta times what was fired. The spikes of a window add up to the requantised level. theta = 2^F; where F <= 0 everything
// is scaled by 2^-F, which makes theta 1 and needs no half.
module if_neuron #(
    parameter int ACC = 32, GAIN = 17, F = 16, LO = 0, HI = 255
) (
    input  logic                   clk,
    input  logic                   load,
    input  logic                   fire,
    input  logic signed [ACC-1:0]  acc,
    input  logic signed [GAIN-1:0] m,
    input  logic signed [GAIN-1:0] m_neg,
    output logic                   up,    // a spike in this step
    output logic                   down   // a negative one
);
    localparam int SCALE = F < 0 ? -F : 0;
    localparam int SHIFT = F > 0 ? F : 0;
    localparam int WIDE = ACC + GAIN + SCALE + 2;
    localparam logic signed [WIDE-1:0] ONE = 1;
    localparam logic signed [WIDE-1:0] THETA = ONE <<< SHIFT;
    localparam logic signed [WIDE-1:0] HALF = F > 0 ? THETA >>> 1 : 0;

    logic signed [WIDE-1:0] v, wide_acc, wide_m, product;
    int fired;

    assign wide_acc = WIDE'(acc);
    assign wide_m = acc < 0 ? WIDE'(m_neg) : WIDE'(m);
    assign product = wide_acc * wide_m;
    assign up = v >= THETA && fired < HI;
    assign down = v < 0 && fired > LO;

    always_ff @(posedge clk) begin
        if (load) begin
            v <= (product <<< SCALE) + HALF;
            fired <= 0;
        end else if (fire) begin
            v <= up ? v - THETA : down ? v + THETA : v;
            fired <= fired + (up ? 1 : 0) - (down ? 1 : 0);
        end
    end
endmodule
