// An activation as a ROM: the level for each level n in LO..HI that the requantisation gives.
module activation #(
    parameter int LO = -128, HI = 127, IN = 8, OUT = 8,
    parameter FILE = ""
) (
    input  logic signed [IN-1:0] n,
    output logic [OUT-1:0]       level
);
    logic [OUT-1:0] rom[0:HI-LO];

    initial $readmemh(FILE, rom);
    assign level = rom[n - LO];
endmodule
