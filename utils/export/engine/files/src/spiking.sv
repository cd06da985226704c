// A tile of one block of neurons: membranes from their biases on, every event of its inputs scattered into them, then read out.
module spiking #(
    parameter int L = 8, ACC = 32, WEIGHT = 8, FACTOR = 18, ADDRESS = 13, ROWS = 10, MEMBRANE = 11, LEAKY = 0
) (
    input  logic               clk,
    input  logic               reset,
    input  logic               start,
    /* verilator lint_off UNUSEDSIGNAL */  // a descriptor has room for more
    input  logic [511:0]       d,
    /* verilator lint_on UNUSEDSIGNAL */
    input  logic [L*ACC-1:0]   bias,
    input  logic [5*L-1:0]     threshold,
    output logic [ADDRESS-1:0] address,
    input  logic [8*L-1:0]     word,
    output logic [ROWS-1:0]    row,
    input  logic [8*L*L-1:0]   weights,
    input  logic               room,
    output logic               spike,
    output logic               valid,
    output logic [L*ACC-1:0]   sum
);
    localparam logic [1:0] GAINS = 2;

    logic ready, done, spike_1, spike_2, leaky;
    logic [4:0] drained;
    logic [5:0] which;
    logic [MEMBRANE-1:0] membrane;
    logic [L-1:0] active, negative;
    logic [2:0] shift;
    logic [$clog2(L)-1:0] lane;
    logic [MEMBRANE-1:0] base, last;

    assign leaky = LEAKY != 0 && d[23];
    assign base = d[192+:MEMBRANE];
    assign last = base + (d[7] ? d[98+:MEMBRANE] : d[96+:MEMBRANE]) - 1'b1;

    scatter #(.L(L), .ADDRESS(ADDRESS), .ROWS(ROWS), .MEMBRANE(MEMBRANE)) events (
        .clk(clk), .reset(reset), .start(ready), .diagonal(d[15]), .bits(d[14]), .used(d[160+:L]), .last_x(d[224+:16]),
        .last_y(d[240+:16]), .last_kx(d[256+:8]), .last_ky(d[264+:8]), .last_block(d[272+:16]), .step_x(d[320+:8]),
        .step_y(d[328+:8]), .dilation(d[336+:8]), .last_up(d[31:24]), .from_x(d[128+:8]), .phase_x(d[136+:8]),
        .from_y(d[144+:8]), .phase_y(d[152+:8]), .wide(d[288+:16]), .high(d[304+:16]), .base(base), .address(address), .which(which),
        .word(word), .has_sign(d[448+{26'b0, which}]), .spike(spike), .row(row), .membrane(membrane), .active(active),
        .negative(negative), .shift(shift), .lane(lane), .done(done)
    );
    membranes #(
        .L(L), .ACC(ACC), .WEIGHT(WEIGHT), .FACTOR(FACTOR), .MEMBRANE(MEMBRANE), .LEAKY(LEAKY)
    ) state (
        .clk(clk), .reset(reset), .start(start), .keep(d[22]), .base(base), .last(last), .bias(bias), .leaky(leaky),
        .raw(d[7]), .most(d[4]), .less(d[13]), .leak(d[18:16]), .threshold(threshold), .ready(ready), .spike(spike_2),
        .membrane(membrane), .active(active), .negative(negative), .shift(shift), .lane(lane), .diagonal(d[15]),
        .gains(d[9:8] == GAINS), .weights(weights), .read(drained[4]), .slow(d[7]), .room(room), .valid(valid), .sum(sum)
    );

    always_ff @(posedge clk) begin
        spike_1 <= spike && !reset;
        spike_2 <= spike_1 && !reset;
        drained <= reset ? 0 : {drained[3:0], done};
    end
endmodule
