// Words between the datapath and the memory. Whoever fills it looks at `room` and keeps what is under way in mind.
module fifo #(
    parameter int WIDTH = 64, ADDRESS = 6, SPARE = 32  // SPARE: words that may still come when there is no more room
) (
    input  logic             clk,
    input  logic             reset,
    input  logic             push,
    input  logic [WIDTH-1:0] in,
    input  logic             pop,
    output logic [WIDTH-1:0] out,
    output logic             valid,
    output logic             room
);
    localparam logic [ADDRESS:0] MOST = (ADDRESS + 1)'((1 << ADDRESS) - SPARE);

    logic [WIDTH-1:0] memory[0:(1<<ADDRESS)-1];
    logic [ADDRESS:0] head, tail, count;

    assign count = head - tail;
    assign valid = count != 0;
    assign room = count < MOST;
    assign out = memory[tail[ADDRESS-1:0]];

    always_ff @(posedge clk) begin
        if (push) memory[head[ADDRESS-1:0]] <= in;
        if (reset) begin
            head <= 0;
            tail <= 0;
        end else begin
            if (push) head <= head + 1;
            if (pop) tail <= tail + 1;
        end
    end
endmodule
