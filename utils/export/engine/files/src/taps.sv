// Walks over the taps of every output of a tile: which word of the input buffer, which row of weights. One tap a clock
// while there is room behind. The order: rows of the output, columns, blocks of input channels, rows and columns of the
// kernel. Upsampling holds a place `up` times; with `spread` only the first of them is on the map. No multiplier.
module taps #(
    parameter int ADDRESS = 13, ROWS = 10
) (
    input  logic               clk,
    input  logic               reset,
    input  logic               start,
    input  logic               room,
    input  logic [15:0]        last_x,       // of the output
    input  logic [15:0]        last_y,
    input  logic [7:0]         last_kx,
    input  logic [7:0]         last_ky,
    input  logic [15:0]        last_block,
    input  logic [7:0]         step_x,       // strides
    input  logic [7:0]         step_y,
    input  logic [7:0]         dilation,
    input  logic [7:0]         last_up,
    input  logic               spread,
    input  logic               hold,         // every tap has row 0
    input  logic signed [15:0] left,         // column of the first tap of column 0; negative: padding
    input  logic signed [15:0] top,
    input  logic signed [15:0] wide,         // of what is in the buffer
    input  logic signed [15:0] high,
    /* verilator lint_off UNUSEDSIGNAL */  // a small buffer needs fewer bits
    input  logic [15:0]        dilated_row,  // words from one row of the kernel to the next
    input  logic [15:0]        stepped_row,  // words from one row of the output to the next
    /* verilator lint_on UNUSEDSIGNAL */
    input  logic [ADDRESS-1:0] base,         // word of the first tap
    input  logic [ADDRESS-1:0] block,        // words from one block to the next
    output logic               tap,
    output logic [ADDRESS-1:0] address,
    output logic [ROWS-1:0]    row,
    output logic [5:0]         which,        // block of input channels, modulo 64
    output logic               on_map,       // on the map
    output logic               first,        // of an output
    output logic               last
);
    logic running;
    logic [15:0] o_x, o_y, i_block;
    logic [7:0] k_x, k_y, up_x, up_y;
    logic signed [15:0] x, y, x_of_output, y_of_output, next_x, next_y;
    logic [ADDRESS-1:0] of_kernel_row, of_block, of_column, of_row, next_column, next_row, next_block, next_kernel_row;
    logic end_kx, end_ky, end_block, end_x, end_y, move_x, move_y;
    // As wide as what they are added to.
    logic signed [15:0] dilation_s, step_x_s, step_y_s;
    logic [ADDRESS-1:0] dilation_a, step_x_a, dilated_row_a, stepped_row_a;

    assign dilation_s = {8'b0, dilation};
    assign step_x_s = {8'b0, step_x};
    assign step_y_s = {8'b0, step_y};
    assign dilation_a = ADDRESS'(dilation);
    assign step_x_a = ADDRESS'(step_x);
    assign dilated_row_a = ADDRESS'(dilated_row);
    assign stepped_row_a = ADDRESS'(stepped_row);

    assign tap = running && room;
    assign which = i_block[5:0];
    assign on_map = x >= 0 && y >= 0 && x < wide && y < high && !(spread && (up_x != 0 || up_y != 0));
    assign end_kx = k_x == last_kx;
    assign end_ky = k_y == last_ky;
    assign end_block = i_block == last_block;
    assign end_x = o_x == last_x;
    assign end_y = o_y == last_y;
    assign last = end_kx && end_ky && end_block;
    assign move_x = up_x == last_up;
    assign move_y = up_y == last_up;
    assign next_column = move_x ? of_column + step_x_a : of_column;
    assign next_row = move_y ? of_row + stepped_row_a : of_row;
    assign next_x = move_x ? x_of_output + step_x_s : x_of_output;
    assign next_y = move_y ? y_of_output + step_y_s : y_of_output;
    assign next_block = of_block + block;
    assign next_kernel_row = of_kernel_row + dilated_row_a;

    always_ff @(posedge clk) begin
        if (reset) running <= 0;
        else if (start) begin
            running <= 1;
            first <= 1;
            {o_x, o_y, i_block, k_x, k_y, up_x, up_y} <= 0;
            row <= 0;
            address <= base;
            of_kernel_row <= base;
            of_block <= base;
            of_column <= base;
            of_row <= base;
            x <= left;
            x_of_output <= left;
            y <= top;
            y_of_output <= top;
        end else if (tap) begin
            first <= last;
            row <= last || hold ? 0 : row + 1;
            k_x <= end_kx ? 0 : k_x + 1;
            if (!end_kx) begin
                address <= address + dilation_a;
                x <= x + dilation_s;
            end else if (!end_ky) begin
                k_y <= k_y + 1;
                address <= next_kernel_row;
                of_kernel_row <= next_kernel_row;
                x <= x_of_output;
                y <= y + dilation_s;
            end else if (!end_block) begin
                k_y <= 0;
                i_block <= i_block + 1;
                address <= next_block;
                of_kernel_row <= next_block;
                of_block <= next_block;
                x <= x_of_output;
                y <= y_of_output;
            end else if (!end_x) begin
                k_y <= 0;
                i_block <= 0;
                o_x <= o_x + 1;
                up_x <= move_x ? 0 : up_x + 1;
                address <= next_column;
                of_kernel_row <= next_column;
                of_block <= next_column;
                of_column <= next_column;
                x <= next_x;
                x_of_output <= next_x;
                y <= y_of_output;
            end else begin
                k_y <= 0;
                i_block <= 0;
                o_x <= 0;
                o_y <= o_y + 1;
                up_x <= 0;
                up_y <= move_y ? 0 : up_y + 1;
                address <= next_row;
                of_kernel_row <= next_row;
                of_block <= next_row;
                of_column <= next_row;
                of_row <= next_row;
                x <= left;
                x_of_output <= left;
                y <= next_y;
                y_of_output <= next_y;
                if (end_y) running <= 0;
            end
        end
    end
endmodule
