// L x L multipliers: sum[o] = sum over i of w[o][i] * n[i], two clocks after its operands. A depthwise layer has its weights
// on the diagonal.
module pe_array #(
    parameter int L = 8, LEVEL = 9, WEIGHT = 8, ACC = 32
) (
    input  logic               clk,
    input  logic [L*LEVEL-1:0] n,
    /* verilator lint_off UNUSEDSIGNAL */  // weights may have fewer than 8 bits
    input  logic [8*L*L-1:0]   w,  // a byte each, of which WEIGHT bits count
    /* verilator lint_on UNUSEDSIGNAL */
    output logic [L*ACC-1:0]   sum
);
    localparam int PRODUCT = LEVEL + WEIGHT;
    localparam int TREE = PRODUCT + $clog2(L);

    genvar o, i;
    generate
        for (o = 0; o < L; o = o + 1) begin : row
            logic [L*PRODUCT-1:0] products;
            logic signed [TREE-1:0] tree;
            /* verilator lint_off UNUSEDSIGNAL */  // the network's sums fit ACC bits, whatever such factors could give
            logic signed [TREE-1:0] total;
            /* verilator lint_on UNUSEDSIGNAL */
            integer each;

            for (i = 0; i < L; i = i + 1) begin : pe
                logic signed [WEIGHT-1:0] weight;
                logic signed [LEVEL-1:0] level;
                logic signed [PRODUCT-1:0] wide_weight, wide_level;
                assign weight = w[8*(L*o+i)+:WEIGHT];
                assign level = n[LEVEL*i+:LEVEL];
                assign wide_weight = PRODUCT'(weight);
                assign wide_level = PRODUCT'(level);
                always_ff @(posedge clk) products[PRODUCT*i+:PRODUCT] <= wide_weight * wide_level;
            end
            always_comb begin
                tree = 0;
                for (each = 0; each < L; each = each + 1) tree = tree + TREE'($signed(products[PRODUCT*each+:PRODUCT]));
            end
            always_ff @(posedge clk) total <= tree;
            assign sum[ACC*o+:ACC] = ACC'(total);
        end
    endgenerate
endmodule
