"""The construction of MIS's paper (section 3.2) with teachers: stages that run alone, survive a kill and account for every record."""
