"""Construction with teachers (MIS's paper, section 3.2): every stage runs alone, survives a kill, loses no record."""
