// Writes `length` words one after the other, in bursts as dma_read's. A burst's address goes out as early as it can; its
// data follows as it is made. Done when every burst was answered.
module dma_write #(
    parameter int L = 8
) (
    input  logic           clk,
    input  logic           reset,
    input  logic           start,
    input  logic [31:0]    base,
    input  logic [31:0]    address,
    input  logic [31:0]    length,
    input  logic           valid,
    input  logic [8*L-1:0] data,
    output logic           pop,
    output logic           done,
    output logic           failed,
    output logic           awvalid,
    input  logic           awready,
    output logic [31:0]    awaddr,
    output logic [7:0]     awlen,
    output logic           wvalid,
    input  logic           wready,
    output logic [8*L-1:0] wdata,
    output logic           wlast,
    input  logic           bvalid,
    output logic           bready,
    input  logic [1:0]     bresp
);
    logic [31:0] at, left, at_data, left_data, unanswered;
    logic [31:0] to_edge, burst, to_edge_data;
    logic [31:0] allowed;  // bursts whose address went out and whose data did not
    logic active, accepted, ended;

    assign to_edge = 32'd64 - {26'b0, at[5:0]};
    assign burst = left < to_edge ? left : to_edge;
    assign to_edge_data = 32'd64 - {26'b0, at_data[5:0]};
    assign wlast = left_data == 1 || to_edge_data == 1;
    assign wvalid = valid && active && allowed != 0;
    assign wdata = data;
    assign pop = wvalid && wready;
    assign bready = 1;
    assign accepted = awvalid && awready;
    assign ended = pop && wlast;

    always_ff @(posedge clk) begin
        if (reset) begin
            awvalid <= 0;
            active <= 0;
            done <= 0;
            failed <= 0;
            left <= 0;
        end else if (start) begin
            at <= address;
            at_data <= address;
            left <= length;
            left_data <= length;
            allowed <= 0;
            unanswered <= 0;
            active <= 1;
            done <= 0;
            failed <= 0;
        end else begin
            if (!awvalid || awready) begin
                awvalid <= left != 0;
                awaddr <= base + (at << $clog2(L));
                awlen <= burst[7:0] - 8'd1;
                at <= at + burst;
                left <= left - burst;
            end
            allowed <= allowed + 32'(accepted) - 32'(ended);
            unanswered <= unanswered + 32'(accepted) - 32'(bvalid);
            if (pop) begin
                at_data <= at_data + 1;
                left_data <= left_data - 1;
            end
            if (bvalid && bresp != 0) failed <= 1;
            if (active && left == 0 && !awvalid && left_data == 0 && unanswered == 0) begin
                active <= 0;
                done <= 1;
            end
        end
    end
endmodule
