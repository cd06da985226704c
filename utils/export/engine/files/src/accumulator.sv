// One accumulator a lane. It starts at the bias and adds; as a pool it starts at the lowest level and keeps the maximum.
module accumulator #(
    parameter int L = 8, ACC = 32
) (
    input  logic             clk,
    input  logic             tap,
    input  logic             first,
    input  logic             largest,  // a maximum, not a sum
    input  logic [L*ACC-1:0] start,
    input  logic [L*ACC-1:0] term,
    output logic [L*ACC-1:0] acc
);
    genvar i;
    generate
        for (i = 0; i < L; i = i + 1) begin : lane
            logic signed [ACC-1:0] so_far, value, kept;
            assign so_far = first ? start[ACC*i+:ACC] : kept;
            assign value = term[ACC*i+:ACC];
            always_ff @(posedge clk) if (tap) kept <= !largest ? so_far + value : value > so_far ? value : so_far;
            assign acc[ACC*i+:ACC] = kept;
        end
    endgenerate
endmodule
