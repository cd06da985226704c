// Events, membranes and neurons against numpy's vectors (unit_spikes.py): make unit.
module unit_spikes;
`include "unit_spikes.svh"

    logic clk = 0, reset = 1, start = 0, room = 1;
    integer wrong = 0, k, t, at, spikes, waited;
    always #5 clk = ~clk;

    logic [511:0] tiles[0:CASES-1];
    logic [L*ACC-1:0] biases[0:CASES-1];
    logic [5*L-1:0] thresholds[0:CASES-1];
    logic [8*L-1:0] words[0:(CASES<<ADDRESS)-1];
    logic [8*L*L-1:0] rows[0:(CASES<<ROWS)-1];
    logic [L*ACC-1:0] sums[0:(CASES<<MEMBRANE)-1];
    logic [63:0] numbers[0:CASES-1];
    logic [8*L:0] potentials[0:FIRED-1];

    logic [511:0] d = 0;
    logic [L*ACC-1:0] bias, sum;
    logic [5*L-1:0] threshold;
    logic [ADDRESS-1:0] address;
    logic [ROWS-1:0] row;
    logic [8*L-1:0] word;
    logic [8*L*L-1:0] weights;
    logic spike, valid;
    spiking #(
        .L(L), .ACC(ACC), .WEIGHT(WEIGHT), .FACTOR(FACTOR), .ADDRESS(ADDRESS), .ROWS(ROWS), .MEMBRANE(MEMBRANE),
        .LEAKY(1)
    ) neurons (
        .clk(clk), .reset(reset), .start(start), .d(d), .bias(bias), .threshold(threshold), .address(address), .word(word), .row(row),
        .weights(weights), .room(room), .spike(spike), .valid(valid), .sum(sum));
    always @(posedge clk) begin
        word <= words[(k << ADDRESS) + address];
        weights <= rows[(k << ROWS) + row];
        if (spike) spikes = spikes + 1;
    end

    logic has_sign = 0, charged = 0, popped, pushed;
    logic [8*L-1:0] potential = 0, counts;
    logic [L-1:0] fired;
    fire #(.L(L)) firing (
        .clk(clk), .reset(reset), .has_sign(has_sign), .valid(charged), .potential(potential), .pop(popped), .room(room),
        .push(pushed), .counts(counts), .spikes(fired));

    // Neurons that run all the time: a word every other clock, from place FIRST on.
    logic [8*L+1:0] wanted[0:2*STEPS*COUNTS-1];
    logic [8*L-1:0] sent[0:2*STEPS*COUNTS-1];
    logic begins = 0, offered = 0, stepped;
    logic [8*L+1:0] offer = 0;
    logic [8*L-1:0] answer;
    integer step = 0, answered = 0;
    counter #(.L(L), .MEMBRANE(MEMBRANE)) streaming (
        .clk(clk), .reset(reset), .start(begins), .base(MEMBRANE'(FIRST)), .fresh(step % STEPS == 0), .show(offer[0]),
        .has_sign(offer[1]), .valid(offered), .wanted(offer[8*L+1:2]), .push(stepped), .spikes(answer));
    always @(posedge clk) if (stepped) begin
        if (answer !== sent[answered]) report("counter");
        answered = answered + 1;
    end

    function automatic integer busiest(input logic [8*L-1:0] of, input logic is_signed);
        integer i, each;
        busiest = 0;
        for (i = 0; i < L; i = i + 1) begin
            each = is_signed && of[8*i+7] ? 256 - of[8*i+:8] : of[8*i+:8];
            if (each > busiest) busiest = each;
        end
    endfunction

    initial begin
        $readmemh(TILES_FILE, tiles);
        $readmemh(BIASES_FILE, biases);
        $readmemh(THRESHOLDS_FILE, thresholds);
        $readmemh(WORDS_FILE, words);
        $readmemh(ROWS_FILE, rows);
        $readmemh(SUMS_FILE, sums);
        $readmemh(NUMBERS_FILE, numbers);
        $readmemh(POTENTIALS_FILE, potentials);
        $readmemh(WANTED_FILE, wanted);
        $readmemh(SENT_FILE, sent);
        k = 0;
        repeat (3) @(negedge clk);
        reset = 0;
        for (k = 0; k < CASES; k = k + 1) begin
            d = tiles[k];
            bias = biases[k];
            threshold = thresholds[k];
            spikes = 0;
            start = 1;
            @(negedge clk) start = 0;
            at = 0;
            for (t = 0; t < 20000 + 2 * numbers[k][63:32] && at < numbers[k][31:0]; t = t + 1) begin
                room = t % 7 != 3;
                @(negedge clk);
                if (valid) begin
                    if (sum !== sums[(k<<MEMBRANE)+at]) report("membranes");
                    at = at + 1;
                end
            end
            if (at < numbers[k][31:0]) begin
                report("membranes never end");
                $fatal(1);
            end
            if (spikes != numbers[k][63:32]) report("scatter");
            repeat (6) begin
                @(negedge clk);
                if (valid) report("spiking, at the end");
            end
        end
        room = 1;
        for (k = 0; k < FIRED; k = k + 1) begin
            {potential, has_sign} = potentials[k];
            charged = 1;
            @(negedge clk) charged = 0;
            waited = 0;
            while (!pushed && waited < 300) begin
                waited = waited + 1;
                @(negedge clk);
            end
            if (counts !== potential) report("fire");
            if (waited != busiest(potential, has_sign)) report("fire, its clocks");
            @(negedge clk);
        end
        for (step = 0; step < 2 * STEPS; step = step + 1) begin
            begins = 1;
            @(negedge clk) begins = 0;
            for (k = step * COUNTS; k < (step + 1) * COUNTS; k = k + 1) begin
                offer = wanted[k];
                offered = 1;
                @(negedge clk) offered = k % 3 == 0 ? 1'b0 : offered;
                if (!offered) @(negedge clk);
            end
            offered = 0;
            repeat (3) @(negedge clk);
        end
        if (answered != 2 * STEPS * COUNTS) report("counter, its words");
        if (wrong != 0) begin
            $display("unit: %0d vectors are wrong, seed %0d", wrong, SEED);
            $fatal(1);
        end
        $display("unit: %0d tiles of events and %0d words of neurons equal, seed %0d", CASES, FIRED, SEED);
        $display("unit: %0d words of counts equal, seed %0d", answered, SEED);
        $finish;
    end

    task automatic report(input [8*20-1:0] name);
        if (wrong == 0) $display("%0s: vector %0d is wrong", name, k);
        wrong = wrong + 1;
    endtask
endmodule
