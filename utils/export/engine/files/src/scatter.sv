// Events: walks over the words of the input buffer, one a clock where nothing fired, and for every lane that fired over the
// taps of the kernel that reach an output, a spike each: which membranes, which row of weights. A word of `diagonal` work
// (a kernel a channel, a shortcut) is one event of all its lanes, a lane as long as it has spikes. Pixels are no spikes:
// with `bits` the event is a set bit of the level, its weights shifted by that.
module scatter #(
    parameter int L = 8, ADDRESS = 13, ROWS = 10, MEMBRANE = 11
) (
    input  logic                clk,
    input  logic                reset,
    input  logic                start,
    input  logic                diagonal,
    input  logic                bits,
    input  logic [L-1:0]        used,         // lanes that have a channel
    input  logic [15:0]         last_x,       // of the output
    input  logic [15:0]         last_y,
    input  logic [7:0]          last_kx,
    input  logic [7:0]          last_ky,
    input  logic [15:0]         last_block,
    input  logic [7:0]          step_x,
    input  logic [7:0]          step_y,
    input  logic [7:0]          dilation,     // 1 where a step is more
    input  logic [7:0]          last_up,
    input  logic [7:0]          from_x,       // padding / step: output of the first column by the first tap that reaches one
    input  logic [7:0]          from_y,
    input  logic [7:0]          phase_x,      // padding % step: that tap
    input  logic [7:0]          phase_y,
    input  logic [15:0]         wide,         // of what is in the buffer
    input  logic [15:0]         high,
    input  logic [MEMBRANE-1:0] base,         // of the tile's membranes
    output logic [ADDRESS-1:0]  address,      // of the word wanted in the next clock
    output logic [5:0]          which,        // block of that word, modulo 64
    input  logic [8*L-1:0]      word,
    input  logic                has_sign,
    output logic                spike,        // accumulate: a clock later `row`, two clocks later `membrane`, and what goes with it
    output logic [ROWS-1:0]     row,
    output logic [MEMBRANE-1:0] membrane,
    output logic [L-1:0]        active,       // with the weights: outputs that are reached
    output logic [L-1:0]        negative,
    output logic [2:0]          shift,
    output logic [$clog2(L)-1:0] lane,        // that fired
    output logic                done
);
    localparam int LANE = $clog2(L);

    // The word that the buffer shows.
    logic running, take, ended, reached;
    logic [ADDRESS-1:0] at;
    logic [15:0] x, y, block, out_x, out_y;
    logic [7:0] part_x, part_y;
    logic [ROWS-1:0] rows;
    logic [L-1:0] fired;

    // The word that is worked on.
    logic [L-1:0] pending, minus, rest_any;
    logic [8*L-1:0] size;
    logic [15:0] first_x, first_y, to_x, to_y;
    logic [7:0] first_kx, first_ky, kx, ky, count, rest, all_bits, mask;
    logic [ROWS-1:0] of_block;
    logic [LANE-1:0] now;
    logic [2:0] lowest;
    logic [7:0] level;
    logic on_y, on_x, last_spike, end_x, end_y, end_event, end_word, next_tap, next_row;
    integer k;

    assign address = start ? 0 : take ? at + 1 : at;
    assign which = block[5:0];
    assign reached = part_x <= last_kx && part_y <= last_ky;

    genvar i;
    generate
        for (i = 0; i < L; i = i + 1) begin : of_lane
            assign fired[i] = used[i] && word[8*i+:8] != 0;
            assign rest_any[i] = {1'b0, size[8*i+:8]} > {1'b0, count} + 9'd1;
        end
    endgenerate

    always_comb begin
        now = 0;
        all_bits = 0;
        for (k = L - 1; k >= 0; k = k - 1) begin
            if (pending[k]) now = LANE'(k);
            all_bits = all_bits | size[8*k+:8];
        end
        level = diagonal ? all_bits : size[{now, 3'b0}+:8];
        mask = count == 0 ? level : rest;  // bits that are left
        lowest = 0;
        for (k = 7; k >= 0; k = k - 1) if (mask[k]) lowest = 3'(k);
    end

    assign on_y = to_y <= last_y;
    assign on_x = to_x <= last_x;
    assign last_spike = bits ? (mask & (mask - 8'd1)) == 0 : diagonal ? rest_any == 0 : level == count + 8'd1;
    assign next_tap = pending != 0 && on_y && (!on_x || last_spike);
    assign end_x = kx + step_x > last_kx || kx + step_x < kx || to_x < {8'b0, dilation};
    assign next_row = pending != 0 && (!on_y || next_tap && end_x);
    assign end_y = ky + step_y > last_ky || ky + step_y < ky || to_y < {8'b0, dilation};
    assign end_event = next_row && end_y;
    assign end_word = end_event && (pending & (pending - 1'b1)) == 0;
    assign take = running && !ended && (pending == 0 || end_word);

    always_ff @(posedge clk) begin
        done <= 0;
        if (reset) begin
            running <= 0;
            pending <= 0;
        end else if (start) begin
            running <= 1;
            ended <= 0;
            {at, x, y, block, part_x, part_y, rows} <= 0;
            out_x <= {8'b0, from_x};
            out_y <= {8'b0, from_y};
            part_x <= phase_x;
            part_y <= phase_y;
        end else begin
            if (running && ended && (pending == 0 || end_word)) begin
                running <= 0;
                done <= 1;
            end
            if (take) begin
                at <= at + 1;
                minus <= 0;
                for (k = 0; k < L; k = k + 1) begin
                    size[8*k+:8] <= !used[k] ? 8'd0 : has_sign && word[8*k+7] ? -word[8*k+:8] : word[8*k+:8];
                    minus[k] <= has_sign && word[8*k+7];
                end
                pending <= !reached ? 0 : diagonal ? {{(L-1){1'b0}}, fired != 0} : fired;
                {first_kx, kx} <= {2{part_x}};
                {first_ky, ky} <= {2{part_y}};
                {first_x, to_x} <= {2{out_x}};
                {first_y, to_y} <= {2{out_y}};
                of_block <= rows;
                count <= 0;
                part_x <= part_x + 1 == step_x ? 0 : part_x + 1;
                if (part_x + 1 == step_x) out_x <= out_x + 16'(last_up) + 1;
                x <= x + 1;
                if (x + 1 == wide) begin
                    x <= 0;
                    part_x <= phase_x;
                    out_x <= {8'b0, from_x};
                    y <= y + 1;
                    part_y <= part_y + 1 == step_y ? 0 : part_y + 1;
                    if (part_y + 1 == step_y) out_y <= out_y + 16'(last_up) + 1;
                    if (y + 1 == high) begin
                        y <= 0;
                        part_y <= phase_y;
                        out_y <= {8'b0, from_y};
                        block <= block + 1;
                        rows <= rows + (ROWS'(last_kx) + 1'b1) * (ROWS'(last_ky) + 1'b1);
                        ended <= block == last_block;
                    end
                end
            end else if (pending != 0) begin
                if (next_tap) begin
                    count <= 0;
                    kx <= kx + step_x;
                    to_x <= to_x - {8'b0, dilation};
                end else if (on_y) begin
                    count <= count + 1;
                    rest <= mask & (mask - 8'd1);
                end
                if (next_row) begin
                    ky <= ky + step_y;
                    to_y <= to_y - {8'b0, dilation};
                    kx <= first_kx;
                    to_x <= first_x;
                end
                if (end_event) begin
                    pending <= pending & (pending - 1'b1);
                    ky <= first_ky;
                    to_y <= first_y;
                end
            end
        end
    end

    // Addresses, a clock each.
    logic [L-1:0] active_1, negative_1;
    logic [2:0] shift_1;
    logic [LANE-1:0] lane_1;
    logic [MEMBRANE-1:0] of_row, column;

    assign spike = pending != 0 && on_y && on_x;

    always_ff @(posedge clk) begin
        row <= of_block + ROWS'(ky) * (ROWS'(last_kx) + 1'b1) + ROWS'(kx);
        of_row <= MEMBRANE'(to_y) * (MEMBRANE'(last_x) + 1'b1);
        column <= MEMBRANE'(to_x) + base;
        for (k = 0; k < L; k = k + 1) begin
            active_1[k] <= !diagonal || (bits ? size[8*k+{29'b0, lowest}] : size[8*k+:8] > count);
            negative_1[k] <= diagonal ? minus[k] : minus[now];
        end
        shift_1 <= bits ? lowest : 3'd0;
        lane_1 <= now;
        membrane <= of_row + column;
        active <= active_1;
        negative <= negative_1;
        shift <= shift_1;
        lane <= lane_1;
    end
endmodule
