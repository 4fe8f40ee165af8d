# fish completion for ttybroker(1) and ttyrun(1)

function __ttybroker_ports
    ttybroker list 2>/dev/null | sed -n '1!s/ .*//p'
end

function __ttybroker_in # is the command one of these, and is what is typed not its program's
    set -l words (commandline -opc)
    contains -- -- $words; and return 1
    test "$words[1]" = ttyrun; and set words x run
    contains -- "$words[2]" $argv
end

function __ttybroker_program
    set -l words (commandline -opc)
    set -l at (contains -i -- -- $words); or return
    set -l typed (commandline -ct)
    set -l line (string escape -- $words[(math $at + 1)..-1])
    complete -C "$line $typed"
end

for command in ttybroker ttyrun
    complete -c $command -f
    complete -c $command -n '__ttybroker_in run' -l via -x -a 'auto notify pty' -d 'How opens are answered'
    complete -c $command -n '__ttybroker_in run' -l wait -x -d 'Queue for a busy port'
    complete -c $command -n '__ttybroker_in run' -l fd -x -d 'Open the port as this descriptor'
    complete -c $command -n '__ttybroker_in run' -l stdio -x -a '(__ttybroker_ports)' -d 'Open the port as standard input and output'
    complete -c $command -n '__ttybroker_in run term check revoke' -a '(__ttybroker_ports)'
    complete -c $command -n 'contains -- -- (commandline -opc)' -a '(__ttybroker_program)'
end
complete -c ttybroker -n __fish_is_first_arg -a list -d 'The ports you may use, and who has them'
complete -c ttybroker -n __fish_is_first_arg -a run -d 'Run any program on brokered ports'
complete -c ttybroker -n __fish_is_first_arg -a term -d 'A terminal on a port'
complete -c ttybroker -n __fish_is_first_arg -a check -d 'Would it be allowed, and by which rule'
complete -c ttybroker -n __fish_is_first_arg -a revoke -d 'Take a port back from its holder'
complete -c ttybroker -n __fish_is_first_arg -a demo -d 'See it work, on a pty'
complete -c ttybroker -n '__ttybroker_in list check' -l json -d 'For programs'
complete -c ttybroker -n '__ttybroker_in term' -l wait -x -d 'Queue for a busy port'
complete -c ttybroker -n '__ttybroker_in check' -l user -x -a '(__fish_complete_users)' -d 'Ask for another user'
complete -c ttybroker -n '__ttybroker_in check' -l broker -d 'How the broker itself is confined'
