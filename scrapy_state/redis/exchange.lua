-- One exchange between a worker and its job, as one atomic step. This file reads the arguments and decides whether the exchange
-- counts; queues.lua and returning.lua define functions; steps.lua does the work. docs/redis.md#the-protocol says why.
--
-- KEYS[1]  the job's prefix and "meta"; every other key begins with the same prefix, and lies in the same cluster slot
-- KEYS[2]  the key to which others push URLs and requests: a list, a set or a sorted set; in the same slot
-- KEYS[3…] keys that Redis removes by itself after a minute (the self-check's)
-- ARGV     1 prefix   2 worker   3 the frontier's incarnation   4 number of the exchange   5 number of the attempt
--          6 "open", "go on", "again" (no reply came) or "close"   7 lease in ms
--          8 how many requests to lease at most   9 how many bytes of them at most
--          10 order of requests, 11 of start requests ("first" or "last" in, first out)
--          12 how many requests the worker has that Redis does not know of   13 after how many deliveries a page is fatal
--          14 how many requests of any download slot that is not listed
--          15 how many acknowledgements, 16 leases done, 17 leases that can't be read, 18 download slots, 19 new requests
--          and then these: ids; ids; ids; pairs of slot and capacity; pairs of fingerprint ("": no duplicate check) and element
-- returns  {"gone"}: the job's data is not there, or is older than this worker has seen it; {"late"}: a newer attempt came before;
--          {"", incarnation, lost, refused, pending, other workers, requests they work on, leases they have not acknowledged,
--          vanished, duplicates ("0"/"1" each), leases that came back, the type of KEYS[2] if it is a wrong one, fatal pages,
--          those found now; id, element, … of these; id, element, … of the new leases}
--
-- An element is "<priority>[s] <download slot>\n<request>"; "s" marks a start request, and a request that begins with "+" was
-- pushed from outside. Once it has been leased and has come back, it is "<priority>[s]/<id>/<deliveries> <download slot>\n<request>".

local prefix, worker, incarnation, mode = ARGV[1], ARGV[2], ARGV[3], ARGV[6]
local number, attempt, lease_ms = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[7])
local wanted, most_bytes = tonumber(ARGV[8]), tonumber(ARGV[9])
local from_front = {[''] = ARGV[10] == 'first', s = ARGV[11] == 'first'}
local hidden, most_deliveries, other_capacity = tonumber(ARGV[12]), tonumber(ARGV[13]), tonumber(ARGV[14])
local acknowledged, done, not_read = tonumber(ARGV[15]), tonumber(ARGV[16]), tonumber(ARGV[17])
local slots, new = tonumber(ARGV[18]), tonumber(ARGV[19])
local acknowledged_at = 20
local done_at = acknowledged_at + acknowledged
local not_read_at = done_at + done
local slots_at = not_read_at + not_read
local new_at = slots_at + 2 * slots
local meta, workers, busy, ring = prefix .. 'meta', prefix .. 'workers', prefix .. 'busy', prefix .. 'ring'
local mine, finished = prefix .. 'leases:' .. worker, prefix .. 'done:' .. worker
local exchanges, left, last_duplicates, last_leased = prefix .. 'exchanges', prefix .. 'left', prefix .. 'duplicates', prefix .. 'given'
local returning, late = prefix .. 'returning', prefix .. 'late'
local fatal, unreadable = prefix .. 'fatal', prefix .. 'unreadable'
local suspects, trying = prefix .. 'suspects', prefix .. 'trying'
local call = redis.call

-- Nothing that others push may stop the script half way: the type is known before the first write.
local pushed = KEYS[2]
local pushed_type = call('TYPE', pushed)['ok']
local count_of, pop_of = {list = 'LLEN', set = 'SCARD', zset = 'ZCARD'}, {list = 'LPOP', set = 'SPOP', zset = 'ZPOPMAX'}

local time = call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local read = call('HMGET', meta, 'incarnation', 'pending', 'seen', 'generation', 'ids', 'turn')
local pending, seen, generation = tonumber(read[2]) or 0, tonumber(read[3]) or 0, tonumber(read[4]) or 0
local ids, turn = tonumber(read[5]) or 0, tonumber(read[6]) or 0

-- The last exchange of this worker that took place, even if the worker was taken for dead or has left since.
local record = call('HGET', exchanges, worker)
local last_number, last_attempt, lost_number = string.match(record or '0 0 0', '^(%d+) (%d+) (%d+)$')
last_number, last_attempt, lost_number = tonumber(last_number), tonumber(last_attempt), tonumber(lost_number)
if (mode ~= 'open' and (not record or read[1] ~= incarnation)) or number > last_number + 1 then
    return {'gone'}
elseif number < last_number or attempt <= last_attempt then
    return {'late'}
end
local is_repeat = number == last_number -- it took place, and no reply came
local lost = is_repeat and lost_number == number
if not is_repeat and (mode == 'go on' or mode == 'again') and not call('ZSCORE', workers, worker) then
    lost, lost_number = true, number
end
-- A full Redis refuses this first write, and then nothing has happened.
call('HSET', exchanges, worker, number .. ' ' .. attempt .. ' ' .. lost_number)
call('ZADD', workers, now + lease_ms, worker)
if mode == 'open' then
    call('HSETNX', meta, 'version', 2)
    call('HSETNX', meta, 'incarnation', worker)
    incarnation = read[1] or worker
end
