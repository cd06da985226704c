// Fetches descriptors, checks them, and has each done before the next: load into a buffer, or compute and store.
// A descriptor is 16 words of 32 bits, docs in ../README.md; the XOR of its 32 halves is C0DE, or it is damaged.
module sequencer #(
    parameter int L = 8
) (
    input  logic           clk,
    input  logic           reset,
    input  logic           start,
    input  logic [31:0]    program_word,
    output logic [511:0]   descriptor,
    output logic           busy,
    output logic           ended,
    output logic           layer_done,   // a pulse: the map of descriptor's layer is in memory
    output logic [31:0]    error,        // descriptor's number and code; 0: none
    output logic           load,         // pulses: the descriptor begins
    output logic           compute,
    output logic           read_start,
    output logic [31:0]    read_address,
    output logic [15:0]    read_length,
    output logic [15:0]    read_rows,
    output logic [31:0]    read_stride,
    output logic           fetching,     // what is read is a descriptor
    input  logic           read_valid,
    input  logic [8*L-1:0] read_data,
    input  logic           read_done,
    input  logic           read_failed,
    input  logic           write_done,
    input  logic           write_failed
);
    localparam int WORDS = 64 / L;
    localparam logic [3:0] END = 0, COMPUTE = 5, MARK = 6;
    localparam logic [7:0] DAMAGED = 1, UNKNOWN = 2, READ = 3, WRITE = 4;
    localparam logic [2:0] IDLE = 0, FETCH = 1, FETCHED = 2, CHECK = 3, LOADING = 4, COMPUTING = 5;

    logic [2:0] state;
    logic [23:0] number;
    logic [31:0] at;
    logic [15:0] sum;
    logic [3:0] op;
    logic own;  // the read engine's `done` belongs to this descriptor
    integer half;

    assign op = descriptor[3:0];
    assign busy = state != IDLE;
    assign fetching = state == FETCH || state == FETCHED;
    assign load = state == CHECK && sum == 16'hC0DE && op != END && op < COMPUTE;
    assign compute = state == CHECK && sum == 16'hC0DE && op == COMPUTE;
    assign read_start = state == FETCH || load;
    assign read_address = state == FETCH ? at : descriptor[64+:32];
    assign read_length = state == FETCH ? 16'(WORDS) : descriptor[96+:16];
    assign read_rows = state == FETCH ? 16'd1 : descriptor[112+:16];
    assign read_stride = descriptor[128+:32];

    always_comb begin
        sum = 0;
        for (half = 0; half < 32; half = half + 1) sum = sum ^ descriptor[16*half+:16];
    end

    always_ff @(posedge clk) begin
        ended <= 0;
        layer_done <= 0;
        own <= state == LOADING || state == COMPUTING || state == FETCHED;
        if (fetching && read_valid) descriptor <= {read_data, descriptor[511:8*L]};
        if (reset) begin
            state <= IDLE;
            error <= 0;
            number <= 0;
        end else begin
            case (state)
                IDLE:
                if (start) begin
                    state <= FETCH;
                    at <= program_word;
                    number <= 0;
                    error <= 0;
                end
                FETCH: state <= FETCHED;
                FETCHED:
                if (own && read_done) begin
                    state <= CHECK;
                    at <= at + WORDS;
                    if (read_failed) begin
                        error <= {number, READ};
                        state <= IDLE;
                        ended <= 1;
                    end
                end
                CHECK: begin
                    number <= number + 1;
                    if (sum != 16'hC0DE || op > MARK) begin
                        error <= {number, sum != 16'hC0DE ? DAMAGED : UNKNOWN};
                        state <= IDLE;
                        ended <= 1;
                    end else if (op == END) begin
                        state <= IDLE;
                        ended <= 1;
                    end else if (op == MARK) begin
                        state <= FETCH;
                        layer_done <= 1;
                    end else state <= op == COMPUTE ? COMPUTING : LOADING;
                end
                default:
                if (own && (state == COMPUTING ? write_done : read_done)) begin
                    state <= FETCH;
                    layer_done <= descriptor[11];
                    if (state == COMPUTING ? write_failed : read_failed) begin
                        error <= {number - 24'd1, state == COMPUTING ? WRITE : READ};
                        state <= IDLE;
                        ended <= 1;
                    end
                end
            endcase
        end
    end
endmodule
