// Reads `rows` rows of `length` words, `stride` words apart, as AXI4 bursts of at most 64 words that end at a multiple of 64
// words; so none crosses 4 KiB. Addresses run ahead of the data, which is always taken.
module dma_read #(
    parameter int L = 8
) (
    input  logic           clk,
    input  logic           reset,
    input  logic           start,
    input  logic [31:0]    base,     // bytes, a multiple of 4 KiB
    input  logic [31:0]    address,  // words
    input  logic [15:0]    length,
    input  logic [15:0]    rows,
    input  logic [31:0]    stride,
    output logic           valid,
    output logic [8*L-1:0] data,
    output logic           done,     // with or after the last word
    output logic           failed,
    output logic           arvalid,
    input  logic           arready,
    output logic [31:0]    araddr,
    output logic [7:0]     arlen,
    input  logic           rvalid,
    output logic           rready,
    input  logic [8*L-1:0] rdata,
    input  logic [1:0]     rresp
);
    logic [31:0] at, of_row, next_row, waiting;
    logic [15:0] left, rows_left;
    logic [15:0] to_edge, burst;
    logic active;

    assign to_edge = 16'd64 - {10'b0, at[5:0]};
    assign burst = left < to_edge ? left : to_edge;
    assign next_row = of_row + stride;
    assign rready = 1;
    assign valid = rvalid && active;
    assign data = rdata;

    always_ff @(posedge clk) begin
        if (reset) begin
            arvalid <= 0;
            active <= 0;
            done <= 0;
            failed <= 0;
            rows_left <= 0;
        end else if (start) begin
            at <= address;
            of_row <= address;
            left <= length;
            rows_left <= rows;
            waiting <= 32'(length) * 32'(rows);
            active <= 1;
            done <= 0;
            failed <= 0;
        end else begin
            if (!arvalid || arready) begin
                arvalid <= rows_left != 0;
                araddr <= base + (at << $clog2(L));
                arlen <= burst[7:0] - 8'd1;
                if (rows_left != 0) begin
                    if (burst == left) begin
                        rows_left <= rows_left - 1;
                        at <= next_row;
                        of_row <= next_row;
                        left <= length;
                    end else begin
                        at <= at + 32'(burst);
                        left <= left - burst;
                    end
                end
            end
            if (valid) begin
                waiting <= waiting - 1;
                if (rresp != 0) failed <= 1;
                if (waiting == 1) begin
                    active <= 0;
                    done <= 1;
                end
            end
        end
    end
endmodule
