"""People who never existed: structures, their deformation, bodies, phantoms, and the grey values painted over them."""
