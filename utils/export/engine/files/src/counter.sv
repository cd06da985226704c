// Counts S of neurons that run all the time, one beside each membrane. Levels that membranes want now come word by word: a
// neuron fires +1 where its S is below that, -1 where it is above, and counts. `show` gives S, and nothing fires.
module counter #(
    parameter int L = 8, MEMBRANE = 11
) (
    input  logic                clk,
    input  logic                reset,
    input  logic                start,     // the next word belongs to count `base`
    input  logic [MEMBRANE-1:0] base,
    input  logic                fresh,     // nothing was fired yet
    input  logic                show,
    input  logic                has_sign,
    input  logic                valid,
    input  logic [8*L-1:0]      wanted,
    output logic                push,
    output logic [8*L-1:0]      spikes
);
    logic valid_1;
    logic [MEMBRANE-1:0] at, at_1;
    logic [8*L-1:0] wanted_1, found, made, sent;

    ram #(.WIDTH(8 * L), .ADDRESS(MEMBRANE)) counts (
        .clk(clk), .write(valid_1 && !show), .write_address(at_1), .in(made), .read_address(at), .out(found)
    );

    genvar i;
    generate
        for (i = 0; i < L; i = i + 1) begin : neuron
            logic [7:0] count;
            logic signed [8:0] so_far, level;
            logic up, down;
            assign count = fresh ? 8'd0 : found[8*i+:8];
            assign so_far = {has_sign && count[7], count};
            assign level = {has_sign && wanted_1[8*i+7], wanted_1[8*i+:8]};
            assign up = level > so_far;
            assign down = level < so_far;
            assign made[8*i+:8] = count + {7'd0, up} - {7'd0, down};
            assign sent[8*i+:8] = show ? count : {{7{down}}, up || down};
        end
    endgenerate

    always_ff @(posedge clk) begin
        valid_1 <= valid && !reset;
        push <= valid_1 && !reset;
        at_1 <= at;
        wanted_1 <= wanted;
        spikes <= sent;
        if (start) at <= base;
        else if (valid) at <= at + 1;
    end
endmodule
