// Every block of the datapath against numpy's vectors (unit.py): make unit.
module unit;
`include "unit.svh"

    logic clk = 0;
    integer wrong = 0, k, t, at;
    always #5 clk = ~clk;

    logic [RESCALE_BITS-1:0] rescales[0:RESCALE-1];
    logic [ARRAY_BITS-1:0] arrays[0:ARRAY-1];
    logic [ELEMENTS_BITS-1:0] elements[0:ELEMENTS-1];
    logic [SUMS_BITS-1:0] sums[0:SUMS-1];
    logic [ENTRIES_BITS-1:0] entries[0:ENTRIES-1];
    logic [QUERIES_BITS-1:0] queries[0:QUERIES-1];
    logic [GEOMETRIES_BITS-1:0] geometries[0:GEOMETRIES-1];
    logic [WALKED_BITS-1:0] walked[0:WALKED-1];

    logic [RESCALE_BITS-1:0] r;
    logic signed [LEVEL-1:0] level;
    rescale #(.ACC(ACC), .GAIN(GAIN), .LEVEL(LEVEL)) scaling (
        .clk(clk), .acc(r[0+:ACC]), .m(r[ACC+:GAIN]), .m_neg(r[ACC+GAIN+:GAIN]), .f(r[ACC+2*GAIN+:6]),
        .lo(r[ACC+2*GAIN+6+:LEVEL]), .hi(r[ACC+2*GAIN+6+LEVEL+:LEVEL]), .plain(r[ACC+2*GAIN+6+2*LEVEL]), .level(level));

    logic [ARRAY_BITS-1:0] a;
    logic [L*ACC-1:0] sum;
    pe_array #(.L(L), .LEVEL(LEVEL), .WEIGHT(WEIGHT), .ACC(ACC)) array (
        .clk(clk), .n(a[0+:L*LEVEL]), .w(a[L*LEVEL+:8*L*L]), .sum(sum));

    logic [ELEMENTS_BITS-1:0] e;
    logic [L*ACC-1:0] product;
    elementwise #(.L(L), .LEVEL(LEVEL), .GAIN(FACTOR), .ACC(ACC)) products (
        .clk(clk), .n(e[0+:L*LEVEL]), .gains(e[L*LEVEL+:32*L]), .product(product));

    logic [SUMS_BITS-1:0] s;
    logic tap = 0;
    logic [L*ACC-1:0] acc;
    accumulator #(.L(L), .ACC(ACC)) adder (
        .clk(clk), .tap(tap), .first(s[0]), .largest(s[1]), .start(s[2+:L*ACC]), .term(s[2+L*ACC+:L*ACC]), .acc(acc));

    logic clear = 0, write = 0;
    logic [8*L-1:0] entry, found;
    logic [QUERIES_BITS-1:0] q;
    level_table #(.L(L), .LEVEL(LEVEL)) activation (
        .clk(clk), .clear(clear), .write(write), .in(entry), .used(q[0]), .lo(q[1+:LEVEL]), .levels(q[1+LEVEL+:L*LEVEL]),
        .word(found));

    logic [GEOMETRIES_BITS-1:0] g;
    logic reset = 1, start = 0, room = 0, tapped, on_map, first, last;
    logic [ADDRESS-1:0] address;
    logic [ROWS-1:0] row;
    logic [5:0] which;
    taps #(.ADDRESS(ADDRESS), .ROWS(ROWS)) walk (
        .clk(clk), .reset(reset), .start(start), .room(room), .last_x(g[0+:16]), .last_y(g[16+:16]), .last_kx(g[32+:8]),
        .last_ky(g[40+:8]), .last_block(g[48+:16]), .step_x(g[64+:8]), .step_y(g[72+:8]), .dilation(g[80+:8]),
        .last_up(g[88+:8]), .spread(g[96]), .hold(g[97]), .left(g[98+:16]), .top(g[114+:16]), .wide(g[130+:16]),
        .high(g[146+:16]), .dilated_row(g[162+:16]), .stepped_row(g[178+:16]), .base(g[194+:ADDRESS]),
        .block(g[194+ADDRESS+:ADDRESS]), .tap(tapped), .address(address), .row(row), .which(which), .on_map(on_map),
        .first(first), .last(last));

    initial begin
        $readmemh(RESCALE_FILE, rescales);
        $readmemh(ARRAY_FILE, arrays);
        $readmemh(ELEMENTS_FILE, elements);
        $readmemh(SUMS_FILE, sums);
        $readmemh(ENTRIES_FILE, entries);
        $readmemh(QUERIES_FILE, queries);
        $readmemh(GEOMETRIES_FILE, geometries);
        $readmemh(WALKED_FILE, walked);
        @(negedge clk) reset = 0;
        for (k = 0; k < RESCALE; k = k + 1) begin
            r = rescales[k];
            repeat (6) @(negedge clk);
            if (level !== $signed(r[RESCALE_BITS-1-:LEVEL])) report("rescale");
        end
        for (k = 0; k < ARRAY; k = k + 1) begin
            a = arrays[k];
            repeat (2) @(negedge clk);
            if (sum !== a[ARRAY_BITS-1-:L*ACC]) report("pe_array");
        end
        for (k = 0; k < ELEMENTS; k = k + 1) begin
            e = elements[k];
            repeat (2) @(negedge clk);
            if (product !== e[ELEMENTS_BITS-1-:L*ACC]) report("elementwise");
        end
        tap = 1;
        for (k = 0; k < SUMS; k = k + 1) begin
            s = sums[k];
            @(negedge clk);
            if (acc !== s[SUMS_BITS-1-:L*ACC]) report("accumulator");
        end
        clear = 1;
        @(negedge clk) clear = 0;
        write = 1;
        for (k = 0; k < ENTRIES; k = k + 1) begin
            entry = entries[k];
            @(negedge clk);
        end
        write = 0;
        for (k = 0; k < QUERIES; k = k + 1) begin
            q = queries[k];
            @(negedge clk);
            if (found !== q[QUERIES_BITS-1-:8*L]) report("level_table");
        end
        at = 0;
        for (k = 0; k < GEOMETRIES; k = k + 1) begin
            g = geometries[k];
            start = 1;
            @(negedge clk) start = 0;
            for (t = 0; t < g[GEOMETRIES_BITS-1-:16]; t = t + 1) begin
                room = 0;
                if (t % 5 == 3) @(negedge clk);  // no room: nothing may move
                room = 1;
                #1 if (!tapped || {which, last, first, on_map, row, address} !== walked[at]) report("taps");
                at = at + 1;
                @(negedge clk);
            end
            if (tapped) report("taps, at the end");
        end
        if (wrong != 0) begin
            $display("unit: %0d vectors are wrong, seed %0d", wrong, SEED);
            $fatal(1);
        end
        $display("unit: %0d vectors equal, seed %0d", RESCALE + ARRAY + ELEMENTS + SUMS + QUERIES + WALKED, SEED);
        $finish;
    end

    task automatic report(input [8*20-1:0] name);
        if (wrong == 0) $display("%0s: vector %0d is wrong", name, k);
        wrong = wrong + 1;
    endtask
endmodule
