// One port writes, one reads; what is read comes a clock later.
module ram #(
    parameter int WIDTH = 64, ADDRESS = 13
) (
    input  logic               clk,
    input  logic               write,
    input  logic [ADDRESS-1:0] write_address,
    input  logic [WIDTH-1:0]   in,
    input  logic [ADDRESS-1:0] read_address,
    output logic [WIDTH-1:0]   out
);
    logic [WIDTH-1:0] memory[0:(1<<ADDRESS)-1];

    always_ff @(posedge clk) begin
        if (write) memory[write_address] <= in;
        out <= memory[read_address];
    end
endmodule
