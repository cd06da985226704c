// Replays one layer's golden files: every accumulator requantised, through the activation's table where there is one,
// and, where there is none, again as the spikes of a neuron; step by step where there is a golden spike train.
module tb;
`include "layer.svh"

    localparam int OUTPUTS = OUT_C * OUT_H * OUT_W;
    localparam int KERNEL = IN_C / GROUPS * SIZE * SIZE;
    localparam int ROWS = TRAINED != 0 ? WINDOW * OUT_C * OUT_H : 1;

    logic [IN_BITS-1:0] inputs[0:IN_C*IN_H*IN_W-1];
    logic signed [WEIGHT-1:0] weights[0:OUT_C*KERNEL-1];
    logic signed [31:0] biases[0:OUT_C-1];
    logic signed [31:0] gains[0:OUT_C-1];
    logic signed [31:0] negative_gains[0:OUT_C-1];
    logic [OUT_BITS-1:0] golden[0:OUTPUTS-1];
    logic [OUT_W-1:0] train[0:ROWS-1];
    logic signed [ACC-1:0] sums[0:OUTPUTS-1];

    logic clk = 0, start = 0, load = 0, fire = 0;
    logic valid, done, up, down;
    logic [31:0] in_address, weight_address, bias_address, index, channel;
    logic signed [LEVEL-1:0] n;
    logic signed [WEIGHT-1:0] w;
    logic signed [ACC-1:0] bias, acc, sum;
    logic signed [GAIN-1:0] m, m_neg;
    logic signed [PLAIN-1:0] plain;  // before the table
    logic [OUT_BITS-1:0] level;
    logic wrong;
    int k, step, spikes, replayed;

    function automatic int value(input logic [OUT_BITS-1:0] word);
        value = OUT_SIGNED != 0 ? 32'($signed(word)) : 32'($signed({1'b0, word}));
    endfunction

    always #5 clk = ~clk;

    always_ff @(posedge clk) begin
        n <= LEVEL'($signed({IN_SIGNED != 0 && inputs[in_address][IN_BITS-1], inputs[in_address]}));
        w <= weights[weight_address];
        bias <= ACC'(biases[bias_address]);
        if (valid) sums[index] <= acc;
    end

    conv #(
        .IN_C(IN_C), .IN_H(IN_H), .IN_W(IN_W), .OUT_C(OUT_C), .OUT_H(OUT_H), .OUT_W(OUT_W), .SIZE(SIZE), .DOWN(DOWN),
        .RIGHT(RIGHT), .PAD(PAD), .DILATION(DILATION), .GROUPS(GROUPS), .LEVEL(LEVEL), .WEIGHT(WEIGHT), .ACC(ACC)
    ) layer (
        .clk(clk), .start(start), .in_address(in_address), .weight_address(weight_address), .bias_address(bias_address),
        .n(n), .w(w), .bias(bias), .valid(valid), .index(index), .channel(channel), .acc(acc), .done(done)
    );
    requantise #(.ACC(ACC), .GAIN(GAIN), .F(F), .LO(LO), .HI(HI), .LEVEL(PLAIN)) rounding (
        .acc(sum), .m(m), .m_neg(m_neg), .level(plain));
    generate
        if (TABLED != 0)
            activation #(.LO(LO), .HI(HI), .IN(PLAIN), .OUT(OUT_BITS), .FILE(TABLE_FILE)) table_rom (
                .n(plain), .level(level));
        else assign level = plain[OUT_BITS-1:0];
    endgenerate
    if_neuron #(.ACC(ACC), .GAIN(GAIN), .F(F), .LO(LO), .HI(HI)) neuron (
        .clk(clk), .load(load), .fire(fire), .acc(sum), .m(m), .m_neg(m_neg), .up(up), .down(down));

    initial begin
        $readmemh(INPUT_FILE, inputs);
        $readmemh(WEIGHT_FILE, weights);
        $readmemh(BIAS_FILE, biases);
        $readmemh(GAIN_FILE, gains);
        $readmemh(NEGATIVE_GAIN_FILE, negative_gains);
        $readmemh(GOLDEN_FILE, golden);
        if (TRAINED != 0) $readmemh(TRAIN_FILE, train);
        replayed = 0;
        @(negedge clk) start = 1;
        @(negedge clk) start = 0;
        @(negedge clk);
        while (!done) @(negedge clk);
        for (k = 0; k < OUTPUTS; k = k + 1) begin
            sum = sums[k];
            m = GAIN'(gains[k / (OUT_H * OUT_W)]);
            m_neg = GAIN'(negative_gains[k / (OUT_H * OUT_W)]);
            load = 1;
            @(negedge clk) load = 0;
            spikes = value(golden[k]);
            wrong = level !== golden[k] || ^golden[k] === 1'bx;  // an unreadable file is no golden one
            if (SPIKE_EVERY != 0 && k % SPIKE_EVERY == 0) begin
                fire = 1;
                spikes = 0;
                for (step = 0; step < WINDOW; step = step + 1) begin
                    spikes = spikes + (up ? 1 : 0) - (down ? 1 : 0);
                    if (TRAINED != 0 && (up || down) !== train[step * OUT_C * OUT_H + k / OUT_W][k % OUT_W]) begin
                        $display("%s: element %0d of step %0d is not what the neuron fires", TRAIN_FILE, k, step);
                        $fatal(1);
                    end
                    @(negedge clk);
                end
                fire = 0;
                replayed = replayed + 1;
            end
            if (wrong || spikes != value(golden[k])) begin
                $display("%s: element %0d is %0d, but the layer gives level %0d and %0d spikes", GOLDEN_FILE, k,
                         value(golden[k]), value(level), spikes);
                $fatal(1);
            end
        end
        $display("RTL: layer %0d, %0d outputs equal in every element, %0d of them as spikes too", LAYER, OUTPUTS,
                 replayed);
        $finish;
    end
endmodule
