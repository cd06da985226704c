// Membranes of a tile, L a word: from the bias on, or from what they `keep`, an accumulate a clock, and at the end read out
// word by word. With LEAKY, those that are `leaky` leak before they go on, and take the bias again; what is read out is then
// their spikes, and they are reset, unless they are `raw`.
module membranes #(
    parameter int L = 8, ACC = 32, WEIGHT = 8, FACTOR = 18, MEMBRANE = 11, LEAKY = 0
) (
    input  logic                clk,
    input  logic                reset,
    input  logic                start,       // fill with `bias` if not `keep`; `ready` when that is done
    input  logic                keep,
    input  logic [MEMBRANE-1:0] base,        // number of the first word
    input  logic [MEMBRANE-1:0] last,        // and of the last one
    input  logic [L*ACC-1:0]    bias,
    /* verilator lint_off UNUSEDSIGNAL */  // of leaky neurons alone
    input  logic                leaky,
    input  logic                raw,         // no neurons: nothing fires
    input  logic                most,        // v - (v >>> leak) is left, else v >>> leak
    input  logic                less,        // a spike takes the threshold, else all
    input  logic [2:0]          leak,
    input  logic [5*L-1:0]      threshold,   // its logarithm
    /* verilator lint_on UNUSEDSIGNAL */
    output logic                ready,
    input  logic                spike,       // with the weights and the word's number
    input  logic [MEMBRANE-1:0] membrane,
    input  logic [L-1:0]        active,
    input  logic [L-1:0]        negative,
    input  logic [2:0]          shift,
    input  logic [$clog2(L)-1:0] lane,
    input  logic                diagonal,
    input  logic                gains,       // of 32 bits a lane in the row, not a byte for every lane that fires
    /* verilator lint_off UNUSEDSIGNAL */  // weights and gains may have fewer bits
    input  logic [8*L*L-1:0]    weights,
    /* verilator lint_on UNUSEDSIGNAL */
    input  logic                read,        // from the first word on
    input  logic                slow,        // a word every four clocks
    input  logic                room,
    output logic                valid,
    output logic [L*ACC-1:0]    sum
);
    logic filling, reading, spike_4, spike_5, write, more, leaking, leaked, reset_now;
    logic [1:0] wait_for;
    logic [MEMBRANE-1:0] at, at_1, at_4, at_5;
    logic [L*ACC-1:0] term_4, made, made_5, found, left, after, fired;

    ram #(.WIDTH(L * ACC), .ADDRESS(MEMBRANE)) words (
        .clk(clk), .write(write), .write_address(filling ? at : leaked || reset_now ? at_1 : at_4),
        .in(filling ? bias : leaked ? left : reset_now ? after : made), .read_address(reading || leaking ? at : membrane),
        .out(found)
    );

    assign write = filling || spike_4 || leaked || reset_now;
    assign more = reading && room && wait_for == 0;
    assign sum = reset_now ? fired : found;

    genvar i;
    generate
        for (i = 0; i < L; i = i + 1) begin : of_lane
            logic signed [WEIGHT-1:0] weight;
            logic signed [FACTOR-1:0] gain;
            logic signed [ACC-1:0] wide, shifted;
            assign weight = diagonal ? weights[8*(L*i+i)+:WEIGHT] : weights[8*L*i+8*32'(lane)+:WEIGHT];
            assign gain = weights[32*i+:FACTOR];
            assign wide = gains ? ACC'(gain) : ACC'(weight);
            assign shifted = wide <<< shift;
            assign made[ACC*i+:ACC] = (spike_5 && at_5 == at_4 ? made_5[ACC*i+:ACC] : found[ACC*i+:ACC]) + term_4[ACC*i+:ACC];
            always_ff @(posedge clk) term_4[ACC*i+:ACC] <= !active[i] ? 0 : negative[i] ? -shifted : shifted;
        end
    endgenerate

    generate
        if (LEAKY == 0) begin : firm
            assign {leaking, leaked, reset_now} = 0;
            assign {at_1, left, after, fired} = 0;
        end else begin : leaks
            for (i = 0; i < L; i = i + 1) begin : of_lane
                logic signed [ACC-1:0] v, part, wide, limit;
                logic spikes;
                assign v = found[ACC*i+:ACC];
                assign part = v >>> leak;
                assign wide = bias[ACC*i+:ACC];
                assign left[ACC*i+:ACC] = (most ? v - part : part) + wide;
                assign limit = ACC'(1) << threshold[5*i+:5];
                assign spikes = v > limit;
                assign fired[ACC*i+:ACC] = {{(ACC-1){1'b0}}, spikes};
                assign after[ACC*i+:ACC] = !spikes ? v : less ? v - limit : 0;
            end
            assign reset_now = valid && leaky && !raw;
            always_ff @(posedge clk) begin
                at_1 <= at;
                leaked <= leaking && !reset;
                leaking <= !reset && (start ? keep && leaky : leaking && at != last);
            end
        end
    endgenerate

    always_ff @(posedge clk) begin
        spike_4 <= spike && !reset;
        spike_5 <= spike_4 && !reset;
        at_4 <= membrane;
        at_5 <= at_4;
        made_5 <= made;
        ready <= (start && keep && !leaky || filling && at == last || leaked && at_1 == last) && !reset;
        valid <= more && !reset;
        if (reset) begin
            filling <= 0;
            reading <= 0;
        end else if (start || read) begin
            filling <= start && !keep;
            reading <= read;
            at <= base;
            wait_for <= 0;
        end else begin
            if (filling || more || leaking) begin
                at <= at + 1;
                if (at == last) begin
                    filling <= 0;
                    reading <= 0;
                end
            end
            if (reading) wait_for <= more && slow ? 2'd3 : wait_for == 0 ? 2'd0 : wait_for - 2'd1;
        end
    end
endmodule
