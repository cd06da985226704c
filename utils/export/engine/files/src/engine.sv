// The whole engine: AXI4-Lite registers, one AXI4 master, buffers, an L x L array and what follows it. See ../README.md.
module engine #(
    parameter int L = 8,         // lanes: channels of a word, rows and columns of the array
    parameter int LEVEL = 9,     // bits of a level with its sign
    parameter int WEIGHT = 8,    // of a weight
    parameter int ACC = 32,      // of an accumulator
    parameter int GAIN = 17,     // of m, signed
    parameter int FACTOR = 18,   // of a shortcut's gain or a gate, signed
    parameter int ADDRESS = 13,  // of a word in the input buffer
    parameter int ROWS = 10,     // of a row in the weight buffer
    parameter int SPIKES = 0,    // 1: events and membranes in place of the array; 2: and counts beside them; 3: that leak
    parameter int MEMBRANE = 11  // then: of a word of membranes
) (
    input  logic           clk,
    input  logic           reset,
    input  logic           s_awvalid,
    output logic           s_awready,
    input  logic [7:0]     s_awaddr,
    input  logic           s_wvalid,
    output logic           s_wready,
    input  logic [31:0]    s_wdata,
    output logic           s_bvalid,
    input  logic           s_bready,
    output logic [1:0]     s_bresp,
    input  logic           s_arvalid,
    output logic           s_arready,
    input  logic [7:0]     s_araddr,
    output logic           s_rvalid,
    input  logic           s_rready,
    output logic [31:0]    s_rdata,
    output logic [1:0]     s_rresp,
    output logic           m_arvalid,
    input  logic           m_arready,
    output logic [31:0]    m_araddr,
    output logic [7:0]     m_arlen,
    output logic [2:0]     m_arsize,
    output logic [1:0]     m_arburst,
    input  logic           m_rvalid,
    output logic           m_rready,
    input  logic [8*L-1:0] m_rdata,
    input  logic [1:0]     m_rresp,
    /* verilator lint_off UNUSEDSIGNAL */  // words are counted instead
    input  logic           m_rlast,
    /* verilator lint_on UNUSEDSIGNAL */
    output logic           m_awvalid,
    input  logic           m_awready,
    output logic [31:0]    m_awaddr,
    output logic [7:0]     m_awlen,
    output logic [2:0]     m_awsize,
    output logic [1:0]     m_awburst,
    output logic           m_wvalid,
    input  logic           m_wready,
    output logic [8*L-1:0] m_wdata,
    output logic [L-1:0]   m_wstrb,
    output logic           m_wlast,
    input  logic           m_bvalid,
    output logic           m_bready,
    input  logic [1:0]     m_bresp,
    output logic           irq,
    output logic           layer_done,
    output logic [15:0]    layer
);
    localparam logic [3:0] LOAD_INPUT = 1, LOAD_WEIGHTS = 2, LOAD_TABLE = 3, LOAD_GATE = 4;
    localparam logic [1:0] LARGEST = 1, GAINS = 2, GATE = 3;
    localparam logic [3:0] PARAMETERS = 12;  // words of bias, m, m_neg before the rows of weights

    logic start, busy, ended, load, compute, fetching;
    logic [31:0] base, program_word, error, read_address, read_stride;
    logic [15:0] read_length, read_rows;
    logic read_start, read_valid, read_done, read_failed, write_done, write_failed;
    logic [8*L-1:0] read_data;
    logic tap, working;
    /* verilator lint_off UNUSEDSIGNAL */  // a descriptor has room for more, and widths follow the network
    logic [511:0] d;
    /* verilator lint_on UNUSEDSIGNAL */

    assign m_arsize = 3'($clog2(L));
    assign m_awsize = 3'($clog2(L));
    assign m_arburst = 2'b01;
    assign m_awburst = 2'b01;
    assign m_wstrb = {L{1'b1}};
    assign layer = d[32+:16];

    // ------------------------------------------------------------------------------------ control and memory
    regs #(.L(L)) registers (
        .clk(clk), .reset(reset), .awvalid(s_awvalid), .awready(s_awready), .awaddr(s_awaddr), .wvalid(s_wvalid),
        .wready(s_wready), .wdata(s_wdata), .bvalid(s_bvalid), .bready(s_bready), .bresp(s_bresp),
        .arvalid(s_arvalid), .arready(s_arready), .araddr(s_araddr), .rvalid(s_rvalid), .rready(s_rready),
        .rdata(s_rdata), .rresp(s_rresp), .start(start), .base(base), .program_word(program_word), .busy(busy),
        .ended(ended), .array_busy(working), .layer(layer), .error(error), .irq(irq)
    );
    sequencer #(.L(L)) control (
        .clk(clk), .reset(reset), .start(start), .program_word(program_word), .descriptor(d), .busy(busy),
        .ended(ended), .layer_done(layer_done), .error(error), .load(load), .compute(compute),
        .read_start(read_start), .read_address(read_address), .read_length(read_length), .read_rows(read_rows),
        .read_stride(read_stride), .fetching(fetching), .read_valid(read_valid), .read_data(read_data),
        .read_done(read_done), .read_failed(read_failed), .write_done(write_done), .write_failed(write_failed)
    );
    dma_read #(.L(L)) reader (
        .clk(clk), .reset(reset), .start(read_start), .base(base), .address(read_address), .length(read_length),
        .rows(read_rows), .stride(read_stride), .valid(read_valid), .data(read_data), .done(read_done),
        .failed(read_failed), .arvalid(m_arvalid), .arready(m_arready), .araddr(m_araddr), .arlen(m_arlen),
        .rvalid(m_rvalid), .rready(m_rready), .rdata(m_rdata), .rresp(m_rresp)
    );

    // ----------------------------------------------------------------------------------------------- buffers
    logic into_input, into_weights, into_parameters, into_rows, into_table, into_gate;
    logic [ADDRESS-1:0] fill;
    logic [3:0] parameters_in;  // up to PARAMETERS, and stays there
    logic [12*8*L-1:0] parameters;
    /* verilator lint_off UNUSEDSIGNAL */  // of integers alone
    logic [8*L-1:0] gate;
    /* verilator lint_on UNUSEDSIGNAL */

    assign into_input = read_valid && !fetching && d[3:0] == LOAD_INPUT;
    assign into_weights = read_valid && !fetching && d[3:0] == LOAD_WEIGHTS;
    assign into_parameters = into_weights && parameters_in != PARAMETERS;
    assign into_rows = into_weights && parameters_in == PARAMETERS;
    assign into_table = read_valid && !fetching && d[3:0] == LOAD_TABLE;
    assign into_gate = read_valid && !fetching && d[3:0] == LOAD_GATE;

    always_ff @(posedge clk) begin
        if (load) begin
            fill <= d[160+:ADDRESS];
            if (d[3:0] == LOAD_WEIGHTS) parameters_in <= 0;
        end else begin
            if (into_input) fill <= fill + 1;
            if (into_parameters) parameters_in <= parameters_in + 1;
        end
        if (into_parameters) parameters <= {read_data, parameters[12*8*L-1:8*L]};
        if (into_gate) gate <= read_data;
    end

    // -------------------------------------------------------------------------------------------------- taps
    logic on_map, first, last, room, tap_1, on_map_1, first_1, last_1, tap_2, first_2, last_2;
    logic tap_3, first_3, last_3, tap_4, first_4, last_4, whole_5;
    logic signed_1, whole_0;
    logic [5:0] which;
    logic [ADDRESS-1:0] address, address_0;
    /* verilator lint_off UNUSEDSIGNAL */  // of integers alone
    logic [ROWS-1:0] row;
    logic [8*L*L-1:0] weights_2;
    /* verilator lint_on UNUSEDSIGNAL */
    logic [ROWS-1:0] row_0;
    logic [8*L-1:0] word_1;
    logic [8*L*L-1:0] weights_1;
    logic [1:0] mode;

    assign mode = d[9:8];

    taps #(.ADDRESS(ADDRESS), .ROWS(ROWS)) walk (
        .clk(clk), .reset(reset), .start(compute && (SPIKES == 0 || mode == LARGEST)), .room(room), .last_x(d[224+:16]), .last_y(d[240+:16]),
        .last_kx(d[256+:8]), .last_ky(d[264+:8]), .last_block(d[272+:16]), .step_x(d[320+:8]),
        .step_y(d[328+:8]), .dilation(d[336+:8]), .last_up(d[31:24]), .spread(d[5]), .hold(d[12]),
        .left(d[352+:16]), .top(d[368+:16]), .wide(d[288+:16]), .high(d[304+:16]), .dilated_row(d[384+:16]),
        .stepped_row(d[400+:16]), .base(d[160+:ADDRESS]), .block(d[192+:ADDRESS]), .tap(tap), .address(address),
        .row(row), .which(which), .on_map(on_map), .first(first), .last(last)
    );
    ram #(.WIDTH(8 * L), .ADDRESS(ADDRESS)) input_buffer (
        .clk(clk), .write(into_input), .write_address(fill), .in(read_data), .read_address(address_0), .out(word_1)
    );
    weight_buffer #(.L(L), .ROWS(ROWS)) rows (
        .clk(clk), .clear(load && d[3:0] == LOAD_WEIGHTS), .write(into_rows), .in(read_data), .row(row_0),
        .weights(weights_1)
    );

    always_ff @(posedge clk) begin
        tap_1 <= tap && !reset;
        tap_2 <= tap_1 && !reset;
        tap_3 <= tap_2 && !reset;
        tap_4 <= tap_3 && !reset;
        whole_0 <= tap_4 && last_4 && !reset;
        {on_map_1, first_1, last_1} <= {on_map, first, last};
        signed_1 <= d[448+{26'b0, which}];  // a bit a block of input channels
        {first_2, last_2} <= {first_1, last_1};
        {first_3, last_3} <= {first_2, last_2};
        {first_4, last_4} <= {first_3, last_3};
        weights_2 <= weights_1;
    end

    // ------------------------------------------------------------------------------------------------- lanes
    logic fires, fired, streams, stepped;
    /* verilator lint_off UNUSEDSIGNAL */  // of spikes alone
    logic more;
    logic [L*ACC-1:0] bias_0;
    logic [5*L-1:0] threshold_0;
    /* verilator lint_on UNUSEDSIGNAL */
    logic [8*L-1:0] counts, steps;
    logic signed [LEVEL-1:0] lo, hi, outside;
    logic [L*LEVEL-1:0] n_2, n_3, n_4, level_10;
    logic [L*ACC-1:0] term_4, product_4, start_4, acc_0, acc_5;
    logic [8*L-1:0] word_11;

    assign lo = d[416+:LEVEL];
    assign hi = d[432+:LEVEL];
    assign outside = mode == LARGEST && !d[5] ? lo : 0;

    genvar i;
    generate
        for (i = 0; i < L; i = i + 1) begin : lane
            logic [7:0] level;
            logic signed [ACC-1:0] lowest, bias, widened;
            logic signed [LEVEL-1:0] taken;
            assign level = word_1[8*i+:8];
            assign bias = ACC'($signed(parameters[32*i+:32]));
            assign lowest = ACC'(lo);
            assign taken = n_4[LEVEL*i+:LEVEL];
            assign widened = ACC'(taken);
            assign bias_0[ACC*i+:ACC] = bias;
            assign threshold_0[5*i+:5] = parameters[32*L+32*i+:5];
            assign start_4[ACC*i+:ACC] = mode == LARGEST ? lowest : bias;
            assign term_4[ACC*i+:ACC] = mode == LARGEST ? widened : product_4[ACC*i+:ACC];
            always_ff @(posedge clk)
                n_2[LEVEL*i+:LEVEL] <= on_map_1 ? LEVEL'($signed({signed_1 && level[7], level})) : outside;

            rescale #(.ACC(ACC), .GAIN(GAIN), .LEVEL(LEVEL)) scaling (
                .clk(clk), .acc(acc_5[ACC*i+:ACC]), .m(parameters[32*L+32*i+:GAIN]),
                .m_neg(parameters[64*L+32*i+:GAIN]), .f(d[21:16]), .lo(lo), .hi(hi), .plain(d[10]),
                .level(level_10[LEVEL*i+:LEVEL])
            );
        end
    endgenerate

    always_ff @(posedge clk) begin
        n_3 <= n_2;
        n_4 <= n_3;
    end

    generate
        if (SPIKES == 0) begin : integers
            logic [L*32-1:0] factors_2;
            logic [L*ACC-1:0] array_4, element_4;
            for (i = 0; i < L; i = i + 1) begin : lane
                logic [7:0] of_gate;
                assign of_gate = gate[8*i+:8];
                assign factors_2[32*i+:32] = mode == GATE ? {{24{d[13] && of_gate[7]}}, of_gate} : weights_2[32*i+:32];
            end
            pe_array #(.L(L), .LEVEL(LEVEL), .WEIGHT(WEIGHT), .ACC(ACC)) array (
                .clk(clk), .n(n_2), .w(weights_2), .sum(array_4)
            );
            elementwise #(.L(L), .LEVEL(LEVEL), .GAIN(FACTOR), .ACC(ACC)) products (
                .clk(clk), .n(n_2), .gains(factors_2), .product(element_4)
            );
            assign product_4 = mode == GAINS || mode == GATE ? element_4 : array_4;
            assign {address_0, row_0, working} = {address, row, tap};
            assign {whole_5, acc_5} = {whole_0, acc_0};
        end else begin : events
            logic spike, valid;
            logic [ADDRESS-1:0] of_events;
            logic [L*ACC-1:0] sum;
            spiking #(
                .L(L), .ACC(ACC), .WEIGHT(WEIGHT), .FACTOR(FACTOR), .ADDRESS(ADDRESS), .ROWS(ROWS), .MEMBRANE(MEMBRANE),
                .LEAKY(SPIKES == 3 ? 1 : 0)
            ) neurons (
                .clk(clk), .reset(reset), .start(compute && mode != LARGEST), .d(d), .bias(bias_0), .threshold(threshold_0), .address(of_events),
                .word(word_1), .row(row_0), .weights(weights_1), .room(room && more), .spike(spike), .valid(valid), .sum(sum)
            );
            assign product_4 = 0;
            assign address_0 = mode == LARGEST ? address : of_events;
            assign working = tap || spike;
            assign {whole_5, acc_5} = mode == LARGEST ? {whole_0, acc_0} : {valid, sum};
        end
    endgenerate
    accumulator #(.L(L), .ACC(ACC)) sums (
        .clk(clk), .tap(tap_4), .first(first_4), .largest(mode == LARGEST), .start(start_4), .term(term_4),
        .acc(acc_0)
    );
    level_table #(.L(L), .LEVEL(LEVEL)) activation (
        .clk(clk), .clear(load && d[3:0] == LOAD_TABLE), .write(into_table), .in(read_data), .used(d[6]), .lo(lo),
        .levels(level_10), .word(word_11)
    );

    // ------------------------------------------------------------------------------------------------ output
    logic [5:0] whole;         // whole_6 to whole_11
    logic [L*32-1:0] raw;      // accumulators on their way out, a quarter a clock
    logic [2:0] raw_left;
    logic raw_push, push, pop, filled;
    logic [8*L-1:0] stored;
    logic [L*32-1:0] acc_wide;

    generate
        for (i = 0; i < L; i = i + 1) begin : wide
            assign acc_wide[32*i+:32] = 32'($signed(acc_5[ACC*i+:ACC]));
        end
    endgenerate

    assign raw_push = raw_left != 0;

    always_ff @(posedge clk) begin
        whole <= reset ? 6'b0 : {whole[4:0], whole_5};
        if (reset) raw_left <= 0;
        else if (whole_5 && d[7]) begin
            raw <= acc_wide;
            raw_left <= 4;
        end else if (raw_push) begin
            raw <= raw >> (8 * L);
            raw_left <= raw_left - 1;
        end
    end

    // Levels are what neurons fire, a spike a clock, or a spike a step; what only moves is not fired again.

    generate
        if (SPIKES == 0) begin : levels
            assign {fires, more, fired, counts, streams, stepped, steps} = 0;
        end else begin : neurons
            logic popped, charged;
            logic [8*L-1:0] potential;
            /* verilator lint_off UNUSEDSIGNAL */  // for whoever wants to watch
            logic [L-1:0] spikes;
            /* verilator lint_on UNUSEDSIGNAL */
            assign fires = mode != LARGEST && !d[7] && !d[10] && !streams;
            fifo #(.WIDTH(8 * L)) charges (
                .clk(clk), .reset(reset), .push(whole[5] && fires), .in(word_11), .pop(popped), .out(potential),
                .valid(charged), .room(more)
            );
            fire #(.L(L)) firing (
                .clk(clk), .reset(reset), .has_sign(lo < 0), .valid(charged), .potential(potential), .pop(popped),
                .room(room), .push(fired), .counts(counts), .spikes(spikes)
            );
            if (SPIKES == 2) begin : stream
                assign streams = d[23];
                counter #(.L(L), .MEMBRANE(MEMBRANE)) fired_so_far (
                    .clk(clk), .reset(reset), .start(compute), .base(d[192+:MEMBRANE]), .fresh(!d[22]), .show(d[4]),
                    .has_sign(lo < 0), .valid(whole[5] && streams), .wanted(word_11), .push(stepped), .spikes(steps)
                );
            end else begin : layerwise
                assign {streams, stepped, steps} = 0;
            end
        end
    endgenerate

    assign push = streams ? stepped : fires ? fired : d[7] ? raw_push : whole[5];

    fifo #(.WIDTH(8 * L)) waiting (
        .clk(clk), .reset(reset), .push(push), .in(streams ? steps : fires ? counts : d[7] ? raw[8*L-1:0] : word_11),
        .pop(pop),
        .out(stored), .valid(filled), .room(room)
    );
    dma_write #(.L(L)) writer (
        .clk(clk), .reset(reset), .start(compute), .base(base), .address(d[64+:32]), .length(d[96+:32]),
        .valid(filled), .data(stored), .pop(pop), .done(write_done), .failed(write_failed), .awvalid(m_awvalid),
        .awready(m_awready), .awaddr(m_awaddr), .awlen(m_awlen), .wvalid(m_wvalid), .wready(m_wready),
        .wdata(m_wdata), .wlast(m_wlast), .bvalid(m_bvalid), .bready(m_bready), .bresp(m_bresp)
    );
endmodule
