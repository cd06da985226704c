// Neurons of a word, L at a time: a spike a clock in every lane whose potential, in thresholds, is not used up; the counts
// go on when no lane fires any more. A word takes a clock more than its busiest lane has spikes.
module fire #(
    parameter int L = 8
) (
    input  logic           clk,
    input  logic           reset,
    input  logic           has_sign,
    input  logic           valid,      // a word of potentials, clipped to what the neurons may fire
    input  logic [8*L-1:0] potential,
    output logic           pop,
    input  logic           room,
    output logic           push,
    output logic [8*L-1:0] counts,
    output logic [L-1:0]   spikes      // of this clock
);
    logic busy;
    logic [8*L-1:0] left, fired;

    assign push = busy && spikes == 0 && room;
    assign pop = valid && (!busy || push);
    assign counts = fired;

    genvar i;
    generate
        for (i = 0; i < L; i = i + 1) begin : neuron
            logic minus;
            assign minus = has_sign && left[8*i+7];
            assign spikes[i] = busy && left[8*i+:8] != 0;
            always_ff @(posedge clk) begin
                if (pop) begin
                    left[8*i+:8] <= potential[8*i+:8];
                    fired[8*i+:8] <= 0;
                end else if (spikes[i]) begin
                    left[8*i+:8] <= minus ? left[8*i+:8] + 8'd1 : left[8*i+:8] - 8'd1;
                    fired[8*i+:8] <= minus ? fired[8*i+:8] - 8'd1 : fired[8*i+:8] + 8'd1;
                end
            end
        end
    endgenerate

    always_ff @(posedge clk) busy <= !reset && (pop || busy && !push);
endmodule
