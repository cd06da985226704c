// AXI4-Lite: what the driver sees. One access at a time.
//   0x00 CONTROL  write 1: start, 2: clear done; read bit 0 busy, 1 done, 2 error
//   0x04 IRQ      bit 0: raise the interrupt while done
//   0x08 BASE     bytes, a multiple of 4 KiB      0x0c PROGRAM  word of the first descriptor
//   0x10 CLOCKS   of this run                     0x14 LAYER    that of the newest descriptor
//   0x18 ERROR    bits 31:8 descriptor, 7:0 code  0x1c BUSY     clocks in which the array had a tap
//   0x20 ID       0x44534500 + L
module regs #(
    parameter int L = 8
) (
    input  logic        clk,
    input  logic        reset,
    input  logic        awvalid,
    output logic        awready,
    input  logic [7:0]  awaddr,
    input  logic        wvalid,
    output logic        wready,
    input  logic [31:0] wdata,
    output logic        bvalid,
    input  logic        bready,
    output logic [1:0]  bresp,
    input  logic        arvalid,
    output logic        arready,
    input  logic [7:0]  araddr,
    output logic        rvalid,
    input  logic        rready,
    output logic [31:0] rdata,
    output logic [1:0]  rresp,
    output logic        start,
    output logic [31:0] base,
    output logic [31:0] program_word,
    input  logic        busy,
    input  logic        ended,   // a pulse
    input  logic        array_busy,
    input  logic [15:0] layer,
    input  logic [31:0] error,
    output logic        irq
);
    logic done, enabled, take;
    logic [31:0] clocks, busy_clocks;

    assign take = awvalid && wvalid && !bvalid;
    assign awready = take;
    assign wready = take;
    assign arready = arvalid && !rvalid;
    assign bresp = 0;
    assign rresp = 0;
    assign irq = done && enabled;

    always_ff @(posedge clk) begin
        start <= 0;
        if (reset) begin
            bvalid <= 0;
            rvalid <= 0;
            done <= 0;
            enabled <= 0;
            base <= 0;
            program_word <= 0;
            clocks <= 0;
            busy_clocks <= 0;
        end else begin
            if (busy) clocks <= clocks + 1;
            if (array_busy) busy_clocks <= busy_clocks + 1;
            if (ended) done <= 1;
            if (bvalid && bready) bvalid <= 0;
            if (take) begin
                bvalid <= 1;
                case (awaddr)
                    8'h00: begin
                        if (wdata[1]) done <= 0;
                        if (wdata[0] && !busy) begin
                            start <= 1;
                            done <= 0;
                            clocks <= 0;
                            busy_clocks <= 0;
                        end
                    end
                    8'h04: enabled <= wdata[0];
                    8'h08: base <= wdata;
                    8'h0c: program_word <= wdata;
                    default: ;
                endcase
            end
            if (rvalid && rready) rvalid <= 0;
            if (arready) begin
                rvalid <= 1;
                case (araddr)
                    8'h00: rdata <= {29'b0, error != 0, done, busy};
                    8'h04: rdata <= {31'b0, enabled};
                    8'h08: rdata <= base;
                    8'h0c: rdata <= program_word;
                    8'h10: rdata <= clocks;
                    8'h14: rdata <= {16'b0, layer};
                    8'h18: rdata <= error;
                    8'h1c: rdata <= busy_clocks;
                    8'h20: rdata <= 32'h44534500 + 32'(L);
                    default: rdata <= 0;
                endcase
            end
        end
    end
endmodule
