from mia_lightning.serve.command import main

main()
