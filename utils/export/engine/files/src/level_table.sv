// An activation of L lanes at once: table[level - lo], loaded a word (L entries) a clock; the answer comes a clock later.
module level_table #(
    parameter int L = 8, LEVEL = 9
) (
    input  logic                    clk,
    input  logic                    clear,
    input  logic                    write,
    input  logic [8*L-1:0]          in,
    input  logic                    used,   // else the level itself
    /* verilator lint_off UNUSEDSIGNAL */  // an index modulo 256 is enough
    input  logic signed [LEVEL-1:0] lo,
    /* verilator lint_on UNUSEDSIGNAL */
    input  logic [L*LEVEL-1:0]      levels,
    output logic [8*L-1:0]          word
);
    localparam int WORDS = 256 / L;
    localparam int AT = $clog2(WORDS);

    logic [AT-1:0] filled;

    always_ff @(posedge clk) begin
        if (clear) filled <= 0;
        else if (write) filled <= filled + 1;
    end

    genvar i;
    generate
        for (i = 0; i < L; i = i + 1) begin : lane
            logic [8*L-1:0] entries[0:WORDS-1];
            logic [8*L-1:0] found;
            /* verilator lint_off UNUSEDSIGNAL */  // an index modulo 256 is enough
            logic signed [LEVEL-1:0] level;
            /* verilator lint_on UNUSEDSIGNAL */
            logic [7:0] index;
            assign level = levels[LEVEL*i+:LEVEL];
            assign index = 8'(level) - 8'(lo);
            assign found = entries[index[7:8-AT]];
            always_ff @(posedge clk) begin
                if (write) entries[filled] <= in;
                word[8*i+:8] <= used ? found[{index[7-AT:0], 3'b0}+:8] : 8'(level);
            end
        end
    endgenerate
endmodule
