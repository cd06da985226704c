// acc[o] = sum of w[o,i,ky,kx] * n[i,y,x] + bias[o]: one multiplier, one tap a clock, nothing kept but one accumulator.
// Memories are synchronous: an address of this clock is answered in the next. The padding is 0.
module conv #(
    parameter int IN_C = 1, IN_H = 1, IN_W = 1, OUT_C = 1, OUT_H = 1, OUT_W = 1,
    parameter int SIZE = 1, DOWN = 1, RIGHT = 1, PAD = 0, DILATION = 1, GROUPS = 1,  // DOWN, RIGHT: strides
    parameter int LEVEL = 9, WEIGHT = 8, ACC = 32                                    // bits, all signed
) (
    input  logic                     clk,
    input  logic                     start,
    output logic [31:0]              in_address,
    output logic [31:0]              weight_address,
    output logic [31:0]              bias_address,
    input  logic signed [LEVEL-1:0]  n,
    input  logic signed [WEIGHT-1:0] w,
    input  logic signed [ACC-1:0]    bias,
    output logic                     valid,   // acc is whole in this clock
    output logic [31:0]              index,   // its place in [OUT_C][OUT_H][OUT_W]
    output logic [31:0]              channel,
    output logic signed [ACC-1:0]    acc,
    output logic                     done
);
    localparam int EACH = IN_C / GROUPS;
    localparam int OUT_EACH = OUT_C / GROUPS;

    // Where the next tap lies.
    int o, y, x, i, ky, kx, row, column;
    logic running = 0;
    logic first, last, on_map;

    always_comb begin
        row = y * DOWN - PAD + ky * DILATION;
        column = x * RIGHT - PAD + kx * DILATION;
        on_map = row >= 0 && row < IN_H && column >= 0 && column < IN_W;
        first = i == 0 && ky == 0 && kx == 0;
        last = i == EACH - 1 && ky == SIZE - 1 && kx == SIZE - 1;
        in_address = on_map ? ((o / OUT_EACH * EACH + i) * IN_H + row) * IN_W + column : 0;
        weight_address = ((o * EACH + i) * SIZE + ky) * SIZE + kx;
        bias_address = o;
    end

    always_ff @(posedge clk) begin
        if (start) begin
            o <= 0;
            y <= 0;
            x <= 0;
            i <= 0;
            ky <= 0;
            kx <= 0;
            running <= 1;
        end else if (running) begin
            kx <= kx == SIZE - 1 ? 0 : kx + 1;
            if (kx == SIZE - 1) begin
                ky <= ky == SIZE - 1 ? 0 : ky + 1;
                if (ky == SIZE - 1) i <= i == EACH - 1 ? 0 : i + 1;
            end
            if (last) begin
                x <= x == OUT_W - 1 ? 0 : x + 1;
                if (x == OUT_W - 1) begin
                    y <= y == OUT_H - 1 ? 0 : y + 1;
                    if (y == OUT_H - 1) begin
                        o <= o + 1;
                        running <= o != OUT_C - 1;
                    end
                end
            end
        end
    end

    // One clock later its operands are here.
    logic taken = 0, taken_first = 0, taken_last = 0, taken_on_map = 0;
    logic [31:0] taken_index, taken_channel;
    logic signed [LEVEL+WEIGHT-1:0] product;

    assign product = n * w;

    always_ff @(posedge clk) begin
        taken <= running && !start;
        taken_first <= first;
        taken_last <= last;
        taken_on_map <= on_map;
        taken_index <= (o * OUT_H + y) * OUT_W + x;
        taken_channel <= o;
        if (taken) acc <= (taken_first ? bias : acc) + (taken_on_map ? ACC'(product) : 0);
        valid <= taken && taken_last;
        index <= taken_index;
        channel <= taken_channel;
        done <= !start && !running && !taken;
    end
endmodule
