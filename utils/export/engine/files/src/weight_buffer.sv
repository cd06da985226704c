// Rows of L words, one row a tap: word k holds the L weights of output lane k. Words come one a clock, rows leave whole.
module weight_buffer #(
    parameter int L = 8, ROWS = 10  // ROWS: bits of a row's number
) (
    input  logic             clk,
    input  logic             clear,  // the next word is word 0 of row 0
    input  logic             write,
    input  logic [8*L-1:0]   in,
    input  logic [ROWS-1:0]  row,
    output logic [8*L*L-1:0] weights
);
    logic [$clog2(L)-1:0] word;
    logic [ROWS-1:0] filled;

    always_ff @(posedge clk) begin
        if (clear) begin
            word <= 0;
            filled <= 0;
        end else if (write) begin
            word <= word + 1;
            if (&word) filled <= filled + 1;
        end
    end

    genvar k;
    generate
        for (k = 0; k < L; k = k + 1) begin : lane
            ram #(.WIDTH(8 * L), .ADDRESS(ROWS)) words (
                .clk(clk), .write(write && word == k), .write_address(filled), .in(in), .read_address(row),
                .out(weights[8*L*k+:8*L])
            );
        end
    endgenerate
endmodule
